//! Asks the simulated GHARTS what the real one was asked, row by row in the recorded order, and compares.

mod callers;
mod granting;
mod runners;

use std::{collections::BTreeMap, time::Duration};

use gharts_listener::sim::gharts::{Flavour, TeamSpec, UserSpec};
use serde_json::{Value, json};

use super::{
    recorded::{Row, rows, same_body},
    world::{Reply, World, subject},
};

const LISTENER: &str = "listener";

struct Replay {
    world: World,
    /// Teams' ids by their names without the mark of the run, users' by their names.
    ids: BTreeMap<&'static str, String>,
    /// The runner that a row was granted: its id and its name.
    granted: BTreeMap<String, (String, String)>,
    old_token: Option<String>,
}

#[tokio::test(start_paused = true)]
async fn b22_every_recorded_answer_of_the_team_based_version_is_given_again() {
    let mut replay = Replay::new();
    let mut failures = Vec::new();
    let mut compared = 0;
    for row in rows().into_iter().filter(|row| row.version != "arc") {
        let Some(status) = row.status else {
            if let Some(failure) = replay.observe(&row) {
                failures.push(failure);
            }
            continue;
        };
        // Each call of the recording took its time too.
        tokio::time::advance(Duration::from_millis(200)).await;
        let Some(reply) = replay.play(&row.id).await else {
            failures.push(format!("{}: no request is mapped to this row", row.id));
            continue;
        };
        compared += 1;
        if reply.status != status {
            failures.push(format!(
                "{}: status {status} became {}: {}",
                row.id,
                reply.status,
                reply.text()
            ));
        } else if let Err(difference) = same_body(&row.body, &reply.text()) {
            failures.push(format!("{}: {difference}", row.id));
        } else if let Err(difference) = headers(&reply) {
            failures.push(format!("{}: {difference}", row.id));
        }
        replay.remember(&row.id, &reply);
    }
    assert!(
        failures.is_empty(),
        "{} rows differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(compared > 230, "only {compared} rows were compared");
}

/// The recorded header set: these and no others.
fn headers(reply: &Reply) -> Result<(), String> {
    let mut names: Vec<&str> = reply.response.headers().keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let expected: &[&str] = match reply.status {
        401 => &["content-length", "content-type", "date", "server", "www-authenticate"],
        307 => &["content-length", "date", "location", "server"],
        _ => &["content-length", "content-type", "date", "server"],
    };
    if names != expected || reply.header("server") != Some("uvicorn") {
        return Err(format!("headers {:?}", reply.response.headers()));
    }
    Ok(())
}

impl Replay {
    fn new() -> Self {
        let world = World::new(Flavour::SetAware);
        let owned = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        let team = |name: &str, required: &[&str], patterns: &[&str]| TeamSpec {
            name: format!("{name}-1c3ba6"),
            required_labels: owned(required),
            optional_label_patterns: owned(patterns),
            max_runners: None,
        };
        let gharts = &world.gharts;
        let mut ids = BTreeMap::new();
        let main = gharts.add_team(team("main-team", &["arc", "linux"], &["gpu-.*", "size-[a-z]+"]));
        for user in ["team-mate", LISTENER, "reader"] {
            let id = world.user(user);
            gharts.add_member(&main, &id);
            ids.insert(user, id);
        }
        ids.insert("main", main);
        for (name, required, patterns) in [
            ("sh-team", ["self-hosted"], [".*"].as_slice()),
            ("nopat", ["arc"], &[]),
            ("dotteam", ["ubuntu-22.04"], &[".*"]),
        ] {
            let id = gharts.add_team(team(name, &required, patterns));
            let user = world.user(name);
            gharts.add_member(&id, &user);
            ids.insert(name, id);
        }
        world.user_with_team("open", "open-1c3ba6", None);
        let (_, quota) = world.user_with_team("quota", "quota-1c3ba6", Some(2));
        gharts.add_member(&quota, &world.user("quota-mate"));
        ids.insert("quota", quota);
        world.user_with_team("zero", "zero-1c3ba6", Some(0));
        world.user_with_team("one", "one-1c3ba6", Some(1));
        let (_, inactive) = world.user_with_team("inactive", "inactive-1c3ba6", None);
        gharts.deactivate_team(&inactive, "restructuring");
        ids.insert("inactive", inactive);
        world.user("none");
        let two = world.user("two");
        for name in ["zz-first", "aa-second"] {
            let id = gharts.add_team(team(name, &[&name[..2]], &[".*"]));
            gharts.add_member(&id, &two);
        }
        gharts.add_user(UserSpec {
            email: Some("admin@example.com".to_owned()),
            admin: true,
            ..UserSpec::subject("auth0|admin")
        });
        let deactivated = world.user("deactivated");
        gharts.set_user_active(&deactivated, false);
        gharts.add_user(UserSpec {
            can_use_jit: false,
            ..UserSpec::subject(&subject("nojit"))
        });
        let (_, m2m) = world.user_with_team("m2m-mate", "m2mteam-1c3ba6", Some(2));
        ids.insert("m2m", m2m);
        Self {
            world,
            ids,
            granted: BTreeMap::new(),
            old_token: None,
        }
    }

    fn remember(&mut self, row: &str, reply: &Reply) {
        if reply.status == 201 {
            let body = reply.json();
            let text = |name: &str| body[name].as_str().unwrap().to_owned();
            self.granted
                .insert(row.to_owned(), (text("runner_id"), text("runner_name")));
        }
    }

    fn runner(&self, row: &str) -> &str {
        &self.granted[row].0
    }

    fn runner_name(&self, row: &str) -> &str {
        &self.granted[row].1
    }

    /// What is on GitHub and what GHARTS knows after a call went wrong.
    fn observe(&self, row: &Row) -> Option<String> {
        let case = row.id.strip_prefix("github.")?.strip_suffix(".after")?;
        let name = github_name(&format!("github.{case}"));
        let shown = |there: bool| {
            if there {
                format!("['{name}']")
            } else {
                "nothing".to_owned()
            }
        };
        let on_github = shown(self.world.github.has(&name));
        let known = shown(self.world.gharts.records().iter().any(|record| record.name == name));
        let seen = format!("on GitHub: {on_github}; known to GHARTS: {known}");
        (seen != row.body).then(|| format!("{}: {} became {seen}", row.id, row.body))
    }

    async fn play(&mut self, id: &str) -> Option<Reply> {
        match id.split('.').next().unwrap() {
            "ok" => self.plain(id).await,
            "name" => self.names(id).await,
            "label" => self.labels(id).await,
            "quota" => self.quota(id).await,
            "team" => self.teams(id).await,
            "user" => self.users(id).await,
            "m2m" => self.machines(id).await,
            "auth" => self.tokens(id).await,
            "github" => self.github(id).await,
            "bad" => self.bad(id).await,
            "runners" => self.runners(id).await,
            "info" => self.info(id).await,
            _ => None,
        }
    }

    /// A JIT call with the usual body, overlaid.
    async fn jit_as(&self, user: &str, over: Value) -> Option<Reply> {
        let token = self.world.token(user);
        Some(self.world.jit(&token, &self.body(over)).await)
    }

    fn body(&self, over: Value) -> Value {
        let mut body = json!({ "runner_name_prefix": "p", "labels": ["arc", "linux"], "team_id": self.ids["main"] });
        for (name, value) in over.as_object().unwrap() {
            if name == "runner_name" {
                body.as_object_mut().unwrap().remove("runner_name_prefix");
            }
            body[name] = value.clone();
        }
        body
    }

    fn without(&self, field: &str) -> Value {
        let mut body = self.body(json!({}));
        body.as_object_mut().unwrap().remove(field);
        body
    }

    async fn get_as(&self, user: &str, path: &str) -> Option<Reply> {
        Some(self.world.call("GET", path, &self.world.token(user)).await)
    }

    async fn on_runner(&self, user: &str, method: &'static str, runner: &str) -> Option<Reply> {
        let path = format!("/api/v1/runners/{runner}");
        Some(self.world.call(method, &path, &self.world.token(user)).await)
    }

    async fn refresh(&self, user: &str, runner: &str) -> Option<Reply> {
        let path = format!("/api/v1/runners/{runner}/refresh");
        Some(self.world.call("POST", &path, &self.world.token(user)).await)
    }

    fn admin(&self) -> String {
        self.world
            .token_with(json!({ "sub": "auth0|admin", "email": "admin@example.com" }))
    }
}

/// The exact name that the recording used for a call on which GitHub failed.
fn github_name(row: &str) -> String {
    format!("gh-{}-1c3ba6", row.strip_prefix("github.").unwrap().replace('_', "-"))
}

impl Reply {
    /// The extension's only mark on a recorded answer, taken off.
    fn without_features(mut self) -> Self {
        let text = self.text();
        let bare = text.replace(r#","features":["runner_scale_set"]"#, "");
        assert_ne!(text, bare, "the flavour has the extension");
        *self.response.body_mut() = bare.into_bytes().into();
        self
    }
}
