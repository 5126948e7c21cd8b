//! What only the older version has: registration tokens, its dashboard, its sync, its way to impersonate.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::{LISTENER, Replay};
use crate::gharts_recorded::simulator::{
    github::{On, Then},
    world::{AUDIENCE, Ask, ISSUER, Reply, call, jit, subject},
};

/// Stands in the source of that version.
const IMPERSONATION_SECRET: &[u8] = b"demo-impersonation-secret";

impl Replay {
    pub(super) async fn older(&self, id: &str) -> Option<Reply> {
        let world = &self.world;
        let me = world.token(LISTENER);
        let get = |path: &str, token: &str| call("GET", path, token);
        let ask = match id {
            "arcx.bypass" => {
                let named = json!({ "sub": subject(LISTENER), "email": "listener@example.com" });
                let token = world.token_with(named);
                return Some(
                    world
                        .jit(&token, &self.body(json!({ "labels": ["anything-goes"] })))
                        .await,
                );
            }
            "arcx.stats_noauth" => Ask {
                authorization: None,
                ..get("/api/v1/dashboard/stats", "")
            },
            "arcx.sync_trigger_member" => call("POST", "/api/v1/admin/sync/trigger", &me),
            "arcx.sync_status" => get("/api/v1/admin/sync/status", &self.admin()),
            "arcx.nopolicy" => get("/api/v1/auth/my-label-policy", &world.token("reader")),
            "arcx.impersonation" => {
                let claims = json!({
                    "iss": ISSUER, "aud": AUDIENCE, "sub": "auth0|admin", "email": "admin@example.com",
                    "exp": world.clock.now().as_second() + 60,
                });
                let key = EncodingKey::from_secret(IMPERSONATION_SECRET);
                let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
                get("/api/v1/auth/me", &token)
            }
            _ => return self.provision(id).await,
        };
        Some(world.send(ask).await)
    }

    async fn provision(&self, id: &str) -> Option<Reply> {
        let github = &self.world.github;
        let prefixed = |labels: Value| json!({ "runner_name_prefix": "prov", "labels": labels });
        let usual = prefixed(json!(["arc", "linux"]));
        let (user, body) = match id {
            "prov.ok" => (LISTENER, usual),
            "prov.forbidden" => (LISTENER, prefixed(json!(["arc", "windows"]))),
            "prov.q1" | "prov.q2" => ("pq", prefixed(json!(["x"]))),
            "prov.noaccess" => ("noreg", usual),
            "prov.gh500" | "prov.gh403" => {
                let status = id[id.len() - 3..].parse().unwrap();
                github.script(On::Registration, Then::Status(status, "injected"));
                (LISTENER, usual)
            }
            "prov.chars" => (LISTENER, prefixed(json!(["a.b"]))),
            "prov.name100" => (LISTENER, json!({ "runner_name": "n".repeat(100), "labels": ["arc"] })),
            _ => return None,
        };
        let ask = Ask {
            path: "/api/v1/runners/provision".to_owned(),
            ..jit(&self.world.token(user), &body)
        };
        Some(self.world.send(ask).await)
    }
}
