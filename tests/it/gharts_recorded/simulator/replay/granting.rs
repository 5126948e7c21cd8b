//! JIT calls: names, labels, quotas, teams.

use serde_json::{Value, json};

use super::{LISTENER, Replay};
use crate::gharts_recorded::simulator::{
    github::{On, Then},
    world::Reply,
};

const NAMES: [(&str, &str); 8] = [
    ("name.bad.empty", ""),
    ("name.bad.dot", "a.b"),
    ("name.bad.space", "a b"),
    ("name.bad.slash", "a/b"),
    ("name.bad.colon", "a:b"),
    ("name.bad.dash", "-"),
    ("name.bad.trailing_nl", "ab\n"),
    ("name.upper", "UP-1c3ba6"),
];
const LABELS: [(&str, &str); 13] = [
    ("label.char.dot", "a.b"),
    ("label.char.colon", "a:b"),
    ("label.char.slash", "a/b"),
    ("label.char.space", "a b"),
    ("label.char.comma", "a,b"),
    ("label.char.empty", ""),
    ("label.char.dash", "-"),
    ("label.char.equals", "a=b"),
    ("label.char.at", "a@b"),
    ("label.char.plus", "c++"),
    ("label.char.nl", "arc\n"),
    ("label.char.upper_ok", "gpu-A100"),
    ("label.char.upper_policy", "GPU-a100"),
];

impl Replay {
    pub(super) async fn plain(&self, id: &str) -> Option<Reply> {
        let over = match id {
            "ok.prefix" => json!({ "runner_name_prefix": "arc-pool", "labels": ["arc", "linux", "gpu-a100"] }),
            "ok.exact" => json!({ "runner_name": "arc-exact-1c3ba6" }),
            "ok.no_team_id" => {
                let token = self.world.token(LISTENER);
                return Some(self.world.jit(&token, &self.without("team_id")).await);
            }
            "ok.extra_fields" => json!({ "team_name": "x", "ephemeral": false, "foo": 1 }),
            "ok.label_order.0" => {
                // A series of five, of which the table keeps the first: its order of labels holds within a process.
                let over = json!({ "labels": ["arc", "linux", "gpu-a", "gpu-b", "size-xl"] });
                let first = self.jit_as(LISTENER, over.clone()).await?;
                for _ in 1..5 {
                    let next = self.jit_as(LISTENER, over.clone()).await?;
                    assert_eq!(next.json()["labels"], first.json()["labels"]);
                }
                return Some(first);
            }
            "ok.label_dups" => json!({ "labels": ["arc", "linux", "arc"] }),
            "ok.idempotency_key" | "ok.idempotency_key2" => json!({ "runner_name_prefix": "idem" }),
            _ => return None,
        };
        self.jit_as(LISTENER, over).await
    }

    pub(super) async fn names(&self, id: &str) -> Option<Reply> {
        if let Some((_, name)) = NAMES.iter().find(|(row, _)| *row == id) {
            return self.jit_as(LISTENER, json!({ "runner_name": name })).await;
        }
        let over = match id {
            "name.dup.first" | "name.dup.second" | "name.dup.reuse" => json!({ "runner_name": "dup-1c3ba6" }),
            "name.dup.other_user" => {
                return self.jit_as("team-mate", json!({ "runner_name": "dup-1c3ba6" })).await;
            }
            "name.dup.delete" => return self.on_runner(LISTENER, "DELETE", self.runner("name.dup.first")).await,
            "name.github409" => {
                self.world.github.add("ghonly-1c3ba6-0");
                json!({ "runner_name": "ghonly-1c3ba6-0" })
            }
            "name.both" => {
                let mut body = self.body(json!({}));
                body["runner_name"] = json!("both");
                return Some(self.world.jit(&self.world.token(LISTENER), &body).await);
            }
            "name.neither" => {
                let token = self.world.token(LISTENER);
                return Some(self.world.jit(&token, &self.without("runner_name_prefix")).await);
            }
            "name.bad.long65" => json!({ "runner_name": "a".repeat(65) }),
            "name.len64" => json!({ "runner_name": format!("1c3ba6{}", "a".repeat(58)) }),
            "name.prefix51" => json!({ "runner_name_prefix": "a".repeat(51) }),
            "name.prefix50" => json!({ "runner_name_prefix": format!("1c3ba6{}", "a".repeat(44)) }),
            "name.prefix_dash" => json!({ "runner_name_prefix": "abc-" }),
            "name.unicode" => json!({ "runner_name": "é1c3ba6" }),
            _ => return None,
        };
        self.jit_as(LISTENER, over).await
    }

    pub(super) async fn labels(&self, id: &str) -> Option<Reply> {
        if let Some((_, label)) = LABELS.iter().find(|(row, _)| *row == id) {
            return self
                .jit_as(LISTENER, json!({ "labels": ["arc", "linux", label] }))
                .await;
        }
        let with = |label: &str| json!({ "labels": ["arc", "linux", label] });
        let special = |team: &str, labels: Value| json!({ "team_id": self.ids[team], "labels": labels });
        let over = match id {
            "label.forbidden" => with("windows"),
            "label.forbidden2" => json!({ "labels": ["arc", "linux", "windows", "macos"] }),
            "label.missing_required" => json!({ "labels": ["linux"] }),
            "label.missing_required2" => json!({ "labels": ["gpu-a"] }),
            "label.missing_and_forbidden" => json!({ "labels": ["windows"] }),
            "label.empty_list" => json!({ "labels": [] }),
            "label.absent" => {
                let token = self.world.token(LISTENER);
                return Some(self.world.jit(&token, &self.without("labels")).await);
            }
            "label.null" => json!({ "labels": null }),
            "label.string" => json!({ "labels": "arc" }),
            "label.number" => json!({ "labels": [1] }),
            "label.case_required" => json!({ "labels": ["ARC", "linux"] }),
            "label.char.underscore" => with("gpu-a_1"),
            "label.char.unicode" => with("gpu-é"),
            "label.regex_prefix" => with("size-xl-99"),
            "label.self_hosted" => with("self-hosted"),
            "label.self_hosted_prefix" => with("self-hosted-anything"),
            "label.long" => with(&format!("gpu-{}", "a".repeat(296))),
            "label.many" => {
                let mut labels = vec!["arc".to_owned(), "linux".to_owned()];
                labels.extend((0..99).map(|n| format!("gpu-{n}")));
                json!({ "labels": labels })
            }
            "label.required_self_hosted" => {
                return self.jit_as("sh-team", special("sh-team", json!(["self-hosted"]))).await;
            }
            "label.no_patterns" => return self.jit_as("nopat", special("nopat", json!(["arc", "x"]))).await,
            "label.required_dot" => {
                return self
                    .jit_as("dotteam", special("dotteam", json!(["ubuntu-22.04"])))
                    .await;
            }
            "label.required_dot_absent" => return self.jit_as("dotteam", special("dotteam", json!(["x"]))).await,
            "label.no_policy" => return self.jit_as("free", json!({ "labels": ["anything"] })).await,
            "label.star" => return self.jit_as("star", json!({ "labels": ["anything"] })).await,
            "label.empty_ok" => return self.jit_as("open", json!({ "team_id": "", "labels": [] })).await,
            _ => return None,
        };
        self.jit_as(LISTENER, over).await
    }

    pub(super) async fn quota(&self, id: &str) -> Option<Reply> {
        let x = json!({ "team_id": "", "labels": ["x"] });
        let github = &self.world.github;
        match id {
            "quota.exceeded.mate" => self.jit_as("quota-mate", x).await,
            "quota.team_view" | "quota.team_view_online" => {
                self.get_as("quota", &format!("/api/v1/admin/teams/{}", self.ids["quota"]))
                    .await
            }
            "quota.zero" => self.jit_as("zero", x).await,
            "quota.gone_from_github" => {
                github.forget(self.runner_name("quota.1"));
                self.jit_as("quota", x).await
            }
            "quota.refresh_gone" => self.refresh("quota", self.runner("quota.1")).await,
            "quota.delete_gone" => self.on_runner("quota", "DELETE", self.runner("quota.1")).await,
            "quota.refresh_online" => {
                github.edit(self.runner_name("quota.2"), |runner| runner.status = "online");
                self.refresh("quota", self.runner("quota.2")).await
            }
            "quota.failure1" => {
                github.script(On::Jit, Then::Status(500, "injected 500"));
                self.jit_as("one", x).await
            }
            "quota.failure_not_counted" => self.jit_as("one", x).await,
            "quota.1"
            | "quota.2"
            | "quota.exceeded"
            | "quota.freed"
            | "quota.online_not_counted"
            | "quota.exceeded_again" => self.jit_as("quota", x).await,
            _ => None,
        }
    }

    pub(super) async fn teams(&self, id: &str) -> Option<Reply> {
        let inactive = &self.ids["inactive"];
        let none = json!({ "team_id": "" });
        match id {
            "team.unknown" => {
                let over = json!({ "team_id": "e0456f61-8599-418f-8a36-016f6c5a9ffe" });
                self.jit_as(LISTENER, over).await
            }
            "team.by_name" => self.jit_as(LISTENER, json!({ "team_id": "main-team-1c3ba6" })).await,
            "team.not_member" => self.jit_as(LISTENER, json!({ "team_id": self.ids["quota"] })).await,
            "team.empty" => self.jit_as(LISTENER, none).await,
            "team.null" => self.jit_as(LISTENER, json!({ "team_id": null })).await,
            "team.number" => self.jit_as(LISTENER, json!({ "team_id": 7 })).await,
            "team.inactive" => self.jit_as("inactive", json!({ "team_id": inactive })).await,
            "team.inactive_default" => self.jit_as("inactive", none).await,
            "team.inactive_get" => {
                self.get_as("inactive", &format!("/api/v1/admin/teams/{inactive}"))
                    .await
            }
            "team.inactive_list" => self.get_as("inactive", "/api/v1/admin/teams").await,
            "team.inactive_me" => Some(self.bare(self.get_as("inactive", "/api/v1/auth/me").await?)),
            "team.none" => self.jit_as("none", none).await,
            "team.two_default" => self.jit_as("two", none).await,
            "team.admin_no_team" => Some(self.world.jit(&self.admin(), &self.body(none)).await),
            "team.admin_other_team" => Some(self.world.jit(&self.admin(), &self.body(json!({}))).await),
            _ => None,
        }
    }
}
