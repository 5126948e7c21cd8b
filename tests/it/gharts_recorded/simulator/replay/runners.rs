//! GitHub's failures, malformed requests, and everything that is not a JIT call.

use serde_json::json;

use super::{LISTENER, Replay, github_name};
use crate::gharts_recorded::simulator::{
    github::{On, Then},
    world::{Ask, Reply, jit},
};

const GITHUB: [(&str, On, Then); 18] = [
    (
        "github.409",
        On::Jit,
        Then::Status(409, "Already exists - A runner with the name x already exists."),
    ),
    ("github.422", On::Jit, Then::Status(422, "Validation Failed")),
    ("github.500", On::Jit, Then::Status(500, "injected 500")),
    ("github.502html", On::Jit, Then::Html(502)),
    ("github.503", On::Jit, Then::Status(503, "injected 503")),
    (
        "github.429",
        On::Jit,
        Then::Status(
            429,
            "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.",
        ),
    ),
    (
        "github.403rate",
        On::Jit,
        Then::Status(403, "API rate limit exceeded for installation ID 815."),
    ),
    (
        "github.403perm",
        On::Jit,
        Then::Status(403, "Resource not accessible by integration"),
    ),
    ("github.401", On::Jit, Then::Status(401, "Bad credentials")),
    ("github.404org", On::Jit, Then::Status(404, "Not Found")),
    ("github.reset", On::Jit, Then::Reset),
    ("github.reset_after", On::Jit, Then::ResetAfter),
    ("github.500_after", On::Jit, Then::StatusAfter(500, "injected 500")),
    ("github.timeout", On::Jit, Then::Slow(7)),
    ("github.slow3", On::Jit, Then::Slow(3)),
    ("github.odd_body", On::Jit, Then::OddBody),
    ("github.not_json", On::Jit, Then::Html(200)),
    (
        "github.token401",
        On::Token,
        Then::Status(401, "A JSON web token could not be decoded"),
    ),
];

impl Replay {
    pub(super) async fn github(&self, id: &str) -> Option<Reply> {
        let name = github_name(id);
        if let Some((_, on, then)) = GITHUB.iter().find(|(row, ..)| *row == id) {
            self.world.github.script(*on, then.clone());
            return self.jit_as(LISTENER, json!({ "runner_name": name })).await;
        }
        let over = match id {
            "github.token500" => {
                self.world.github.script(On::Token, Then::Status(500, "injected 500"));
                json!({ "runner_name": name })
            }
            "github.token_timeout" => {
                self.world.github.script(On::Token, Then::Slow(7));
                json!({ "runner_name": name })
            }
            "github.retry1" => {
                self.world.github.script(On::Jit, Then::ResetAfter);
                json!({ "runner_name": "gh-retry-1c3ba6" })
            }
            "github.retry2" => json!({ "runner_name": "gh-retry-1c3ba6" }),
            "github.group404" => json!({ "runner_group_id": 99 }),
            "github.group0" => json!({ "runner_group_id": 0 }),
            _ => return None,
        };
        self.jit_as(LISTENER, over).await
    }

    pub(super) async fn bad(&self, id: &str) -> Option<Reply> {
        let token = self.world.token(LISTENER);
        let usual = jit(&token, &self.body(json!({})));
        let body = |text: &str| Ask {
            body: text.to_owned(),
            ..usual.clone()
        };
        let path = |method, path: &str| Ask {
            method,
            path: path.to_owned(),
            ..usual.clone()
        };
        let typed = |content_type, text: &str| Ask {
            content_type: Some(content_type),
            ..body(text)
        };
        let ask = match id {
            "bad.json" => body("{\"labels\":"),
            "bad.json_no_token" => Ask {
                authorization: None,
                ..body("{\"labels\":")
            },
            "bad.invalid_no_token" => Ask {
                authorization: None,
                ..body("{\"labels\":null}")
            },
            "bad.empty" => body(""),
            "bad.array" => body("[]"),
            "bad.content_type" => typed("text/plain", &usual.body),
            "bad.form" => typed("application/x-www-form-urlencoded", "runner_name_prefix=p"),
            "bad.group_string" => return self.jit_as(LISTENER, json!({ "runner_group_id": "1" })).await,
            "bad.group_text" => return self.jit_as(LISTENER, json!({ "runner_group_id": "default" })).await,
            "bad.work_folder" => return self.jit_as(LISTENER, json!({ "work_folder": "../x" })).await,
            "bad.slash" => path("POST", "/api/v1/runners/jit/"),
            "bad.list_slash" => path("GET", "/api/v1/runners/"),
            "bad.get_jit" => path("GET", "/api/v1/runners/jit"),
            "bad.put_jit" => path("PUT", "/api/v1/runners/jit"),
            "bad.route" => path("GET", "/api/v1/nothing"),
            "bad.provision" => Ask {
                path: "/api/v1/runners/provision".to_owned(),
                ..jit(&token, &self.body(json!({ "runner_name_prefix": "prov" })))
            },
            _ => return None,
        };
        Some(self.world.send(ask).await)
    }

    pub(super) async fn runners(&self, id: &str) -> Option<Reply> {
        if let Some(number) = id.strip_prefix("runners.make") {
            return self
                .jit_as("reader", json!({ "runner_name_prefix": format!("rd{number}") }))
                .await;
        }
        if id.starts_with("runners.list") || id.starts_with("runners.limit") {
            return self.lists(id).await;
        }
        let [rd0, rd1, rd2] = [0, 1, 2].map(|n| self.runner(&format!("runners.make{n}")));
        let name = |n: u8| self.runner_name(&format!("runners.make{n}"));
        const NOBODY: &str = "00000000-0000-0000-0000-000000000000";
        let github = &self.world.github;
        let script = |on, then| github.script(on, then);
        match id {
            "runners.get" | "runners.get_deleted" => self.on_runner("reader", "GET", rd0).await,
            "runners.get_unknown" => self.on_runner("reader", "GET", NOBODY).await,
            "runners.get_notuuid" => self.on_runner("reader", "GET", "abc").await,
            "runners.get_other" => self.on_runner("quota", "GET", rd0).await,
            "runners.get_mate" => self.on_runner("team-mate", "GET", rd0).await,
            "runners.get_admin" => Some(
                self.world
                    .call("GET", &format!("/api/v1/runners/{rd0}"), &self.admin())
                    .await,
            ),
            "runners.refresh_offline" => self.refresh("reader", rd0).await,
            "runners.refresh_online" => {
                github.edit(name(0), |runner| (runner.status, runner.busy) = ("online", true));
                self.refresh("reader", rd0).await
            }
            "runners.delete_busy" => self.on_runner("reader", "DELETE", rd0).await,
            "runners.refresh_gone" => {
                github.forget(name(0));
                self.refresh("reader", rd0).await
            }
            "runners.refresh_deleted" => self.refresh("reader", rd0).await,
            "runners.delete_deleted" => self.on_runner("reader", "DELETE", rd0).await,
            "runners.refresh_github500" => {
                script(On::List, Then::Status(500, "injected 500"));
                self.refresh("reader", rd1).await
            }
            "runners.refresh_unknown" => self.refresh("reader", "nope").await,
            "runners.delete_github500" | "runners.delete_github403" => {
                let status = id[id.len() - 3..].parse().unwrap();
                script(On::Delete, Then::Status(status, "injected"));
                self.on_runner("reader", "DELETE", rd1).await
            }
            "runners.delete_timeout" => {
                script(On::Delete, Then::Slow(7));
                self.on_runner("reader", "DELETE", rd1).await
            }
            "runners.delete_after_timeout" => self.on_runner("reader", "DELETE", rd1).await,
            "runners.delete_other" => self.on_runner("quota", "DELETE", rd2).await,
            "runners.delete_mate" => self.on_runner("team-mate", "DELETE", rd2).await,
            "runners.delete" | "runners.delete_twice" => self.on_runner("reader", "DELETE", rd2).await,
            "runners.delete_unknown" => self.on_runner("reader", "DELETE", NOBODY).await,
            "runners.delete_by_name" => self.on_runner("reader", "DELETE", name(2)).await,
            "runners.page_make" => {
                // The list begins with this runner, so that the first page holds it.
                github.lock().runners.clear();
                self.jit_as("reader", json!({})).await
            }
            "runners.page_refresh1" => self.refresh("reader", self.runner("runners.page_make")).await,
            "runners.page_refresh2" => {
                let mine = github.lock().runners.remove(0);
                (0..150).for_each(|n| github.add(&format!("other-{n}")));
                github.lock().runners.push(mine);
                github.edit(self.runner_name("runners.page_make"), |runner| runner.status = "online");
                self.refresh("reader", self.runner("runners.page_make")).await
            }
            _ => None,
        }
    }

    async fn lists(&self, id: &str) -> Option<Reply> {
        let main = &self.ids["main"];
        let (user, query) = match id {
            "runners.list" => ("reader", "limit=3".to_owned()),
            "runners.list_offset" => ("reader", "offset=2&limit=3".to_owned()),
            "runners.list_past" => ("reader", "offset=1000".to_owned()),
            "runners.list_status" => ("reader", "status=active".to_owned()),
            "runners.list_status_pending" => ("reader", "status=pending&limit=1".to_owned()),
            "runners.list_status_bogus" => ("reader", "status=bogus".to_owned()),
            "runners.list_eph" => ("reader", "ephemeral=false".to_owned()),
            "runners.list_team" => ("reader", "team=main-team-1c3ba6&limit=1".to_owned()),
            "runners.list_team_other" => ("reader", "team=quota-1c3ba6".to_owned()),
            "runners.list_team_id" => ("reader", format!("team={main}")),
            _ => ("nojit", format!("limit={}", id.strip_prefix("runners.limit")?)),
        };
        self.get_as(user, &format!("/api/v1/runners?{query}")).await
    }

    pub(super) async fn info(&self, id: &str) -> Option<Reply> {
        let main = format!("/api/v1/admin/teams/{}", self.ids["main"]);
        let path = match id {
            "info.me" => return Some(self.bare(self.get_as(LISTENER, "/api/v1/auth/me").await?)),
            "info.me_admin" => {
                let reply = self.world.call("GET", "/api/v1/auth/me", &self.admin()).await;
                return Some(self.bare(reply));
            }
            "info.teams_admin" => return Some(self.world.call("GET", "/api/v1/admin/teams", &self.admin()).await),
            "info.team_create" => {
                let token = self.world.token(LISTENER);
                return Some(self.world.call("POST", "/api/v1/admin/teams", &token).await);
            }
            "info.head_health" => return Some(self.world.call("HEAD", "/health", "").await),
            "info.policy" => "/api/v1/auth/my-label-policy".to_owned(),
            "info.stats" => "/api/v1/dashboard/stats".to_owned(),
            "info.admin_stats" => "/api/v1/admin/stats".to_owned(),
            "info.audit" => "/api/v1/audit-logs?limit=2".to_owned(),
            "info.teams" => "/api/v1/admin/teams".to_owned(),
            "info.teams_inactive" => "/api/v1/admin/teams?include_inactive=true".to_owned(),
            "info.team" => main,
            "info.team_other" => format!("/api/v1/admin/teams/{}", self.ids["quota"]),
            "info.team_unknown" => "/api/v1/admin/teams/00000000-0000-0000-0000-0000000000ff".to_owned(),
            "info.team_by_name" => "/api/v1/admin/teams/main-team-1c3ba6".to_owned(),
            "info.members" => format!("{main}/members"),
            "info.user_teams" => format!("/api/v1/admin/teams/users/{}/teams", self.ids[LISTENER]),
            "info.team_audit" => format!("{main}/audit-logs?limit=2"),
            "info.v1_teams" => "/api/v1/teams".to_owned(),
            "info.health" => "/health".to_owned(),
            "info.root" => "/".to_owned(),
            _ => return None,
        };
        self.get_as(LISTENER, &path).await
    }
}
