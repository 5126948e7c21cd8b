//! Who calls: users, machine clients, tokens good and bad, and an issuer that ails.

use std::time::Duration;

use axum::{Json, Router, http::StatusCode, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gharts_listener::sim::{gharts::UserSpec, oidc::Ailment};
use serde_json::{Value, json};

use super::{LISTENER, Replay};
use crate::gharts_recorded::simulator::world::{AUDIENCE, Ask, Reply, call, jit, subject};

impl Replay {
    pub(super) async fn users(&self, id: &str) -> Option<Reply> {
        let with_mail = || {
            self.world
                .token_with(json!({ "sub": subject(LISTENER), "email": "listener@example.com" }))
        };
        match id {
            "user.deactivated" => {
                self.world.gharts.set_user_active(&self.ids["deactivated"], false);
                self.jit_as("deactivated", json!({})).await
            }
            "user.deactivated_list" => self.get_as("deactivated", "/api/v1/runners").await,
            "user.deactivated_badbody" => self.jit_as("deactivated", json!({ "labels": null })).await,
            "user.no_jit" => self.jit_as("nojit", json!({})).await,
            "user.no_jit_list" => self.get_as("nojit", "/api/v1/runners").await,
            "user.unknown" => self.jit_as("nobody", json!({})).await,
            "user.no_sub" => Some(
                self.world
                    .jit(&self.world.token_with(json!({})), &self.body(json!({})))
                    .await,
            ),
            "user.email_vs_sub" => Some(self.world.jit(&with_mail(), &self.body(json!({}))).await),
            "user.email_vs_sub_me" => {
                let reply = self.world.call("GET", "/api/v1/auth/me", &with_mail()).await;
                Some(self.bare(reply))
            }
            _ => None,
        }
    }

    pub(super) async fn machines(&self, id: &str) -> Option<Reply> {
        let world = &self.world;
        let token = world.token_with(json!({ "sub": "m2m-1c3ba6", "gty": "client-credentials" }));
        // Without teams a machine is a user like others, or nobody.
        let team = self.ids.get("m2m").map_or("", String::as_str);
        let mine = |method, row: &str| call(method, &format!("/api/v1/runners/{}", self.runner(row)), &token);
        let ask = match id {
            "m2m.unregistered" => jit(&token, &self.body(json!({}))),
            "m2m.ok" => {
                world.gharts.register_client("m2m-1c3ba6", team);
                jit(&token, &self.without("team_id"))
            }
            "m2m.foreign_team_id" | "m2m.quota" => jit(&token, &self.body(json!({}))),
            "m2m.list" | "m2m.team_inactive_list" => {
                if id == "m2m.list" {
                    call("GET", "/api/v1/runners", &token)
                } else {
                    call("GET", "/api/v1/runners?limit=1", &token)
                }
            }
            "m2m.me" => return Some(self.bare(world.call("GET", "/api/v1/auth/me", &token).await)),
            "m2m.teams" => call("GET", "/api/v1/admin/teams", &token),
            "m2m.team" => call("GET", &format!("/api/v1/admin/teams/{team}"), &token),
            "m2m.delete" => mine("DELETE", "m2m.ok"),
            "m2m.mate" => return self.jit_as("m2m-mate", json!({ "team_id": team })).await,
            "m2m.mate_get" => mine("GET", "m2m.mate"),
            "m2m.mate_delete" => mine("DELETE", "m2m.mate"),
            "m2m.disabled" => {
                world.gharts.set_client_active("m2m-1c3ba6", false);
                jit(&token, &self.body(json!({})))
            }
            "m2m.team_inactive" => {
                world.gharts.set_client_active("m2m-1c3ba6", true);
                world.gharts.deactivate_team(team, "gone");
                jit(&token, &self.body(json!({})))
            }
            "m2m.as_user" => {
                world.gharts.add_user(UserSpec::subject("m2m-1c3ba6"));
                jit(&token, &self.body(json!({})))
            }
            "m2m.gty_only_marks" => jit(&world.token_with(json!({ "sub": "m2m-1c3ba6" })), &self.body(json!({}))),
            _ => return None,
        };
        Some(world.send(ask).await)
    }

    pub(super) async fn tokens(&mut self, id: &str) -> Option<Reply> {
        let world = &self.world;
        let now = world.clock.now().as_second();
        let body = self.body(json!({ "runner_name_prefix": "a" }));
        let with = |claims: Value| {
            let mut all = json!({ "sub": subject(LISTENER) });
            all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
            world.token_with(all)
        };
        let plain = || world.token(LISTENER);
        let bare = |authorization: Option<&str>| Ask {
            authorization: authorization.map(str::to_owned),
            ..jit("", &body)
        };
        let header = |header: Value| {
            let token = plain();
            let rest = &token[token.find('.').unwrap()..];
            format!("{}{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
        };
        let ask = match id {
            "auth.none" => bare(None),
            "auth.none_list" => Ask {
                authorization: None,
                ..call("GET", "/api/v1/runners", "")
            },
            "auth.basic" => bare(Some("Basic YTpi")),
            "auth.empty_bearer" => bare(Some("Bearer")),
            "auth.garbage" => jit("garbage", &body),
            "auth.garbage3" => jit("a.b.c", &body),
            "auth.expired" => jit(&with(json!({ "exp": now - 3600 })), &body),
            "auth.expired1" => jit(&with(json!({ "exp": now - 1 })), &body),
            "auth.wrong_aud" => jit(&with(json!({ "aud": "https://other" })), &body),
            "auth.no_aud" => jit(&with(json!({ "aud": [] })), &body),
            "auth.aud_list" => jit(&with(json!({ "aud": ["x", AUDIENCE] })), &body),
            "auth.wrong_iss" => jit(&with(json!({ "iss": "https://evil.example.com/" })), &body),
            "auth.iss_slash" => jit(&with(json!({ "iss": "http://127.0.0.1:18082" })), &body),
            "auth.no_kid" => jit(&header(json!({ "alg": "RS256" })), &body),
            "auth.unknown_kid" => jit(&header(json!({ "alg": "RS256", "kid": "other" })), &body),
            "auth.rogue" => {
                let token = plain();
                let signed = &token[..=token.rfind('.').unwrap()];
                jit(&format!("{signed}{}", URL_SAFE_NO_PAD.encode([7; 256])), &body)
            }
            "auth.nbf_future" => jit(&with(json!({ "nbf": now + 3600 })), &body),
            "auth.nbf_2s" => jit(&with(json!({ "nbf": now + 2 })), &body),
            "auth.es256" | "auth.hs256" => {
                let alg = id.strip_prefix("auth.").unwrap().to_uppercase();
                jit(&header(json!({ "alg": alg, "kid": world.oidc.kid() })), &body)
            }
            "auth.iat_future" => jit(&with(json!({ "iat": now + 3600 })), &body),
            "auth.lower_scheme" => bare(Some(&format!("bearer {}", plain()))),
            "auth.rotated_kept" => {
                let old = plain();
                world.oidc.rotate(true).unwrap();
                let ask = jit(&old, &body);
                self.old_token = Some(old);
                ask
            }
            "auth.rotated_dropped" => {
                world.oidc.drop_old_keys();
                jit(self.old_token.as_deref().unwrap(), &body)
            }
            "auth.rotated_new" | "auth.rotated_after" => jit(&plain(), &body),
            _ => return self.ailing_jwks(id, &body).await,
        };
        Some(self.world.send(ask).await)
    }

    async fn ailing_jwks(&self, id: &str, body: &Value) -> Option<Reply> {
        let world = &self.world;
        let token = world.token(LISTENER);
        let ailment = match id {
            "auth.jwks_500" => Some(Ailment::Status(StatusCode::INTERNAL_SERVER_ERROR)),
            "auth.jwks_reset" => Some(Ailment::Reset),
            "auth.jwks_garbage" => Some(Ailment::Html),
            "auth.jwks_slow3" => Some(Ailment::Slow(Duration::from_secs(3))),
            "auth.jwks_slow12" => Some(Ailment::Slow(Duration::from_secs(12))),
            "auth.jwks_empty" => {
                let empty = get(|| async { Json(json!({ "keys": [] })) });
                world
                    .network
                    .attach("127.0.0.1:18082", Router::new().route("/.well-known/jwks.json", empty));
                None
            }
            "auth.jwks_back" => None,
            _ => return None,
        };
        world.oidc.ail_jwks_endpoint(ailment);
        let reply = world.jit(&token, body).await;
        world.oidc.ail_jwks_endpoint(None);
        world.network.attach("127.0.0.1:18082", world.oidc.router());
        Some(reply)
    }
}
