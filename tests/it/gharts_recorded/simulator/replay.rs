//! Asks the simulated GHARTS what the real one was asked, row by row in the recorded order, and compares.

mod callers;
mod granting;
mod older;
mod runners;

use std::{collections::BTreeMap, time::Duration};

use gharts_listener::sim::gharts::{Flavour, Policy, TeamSpec, UserSpec};
use serde_json::{Value, json};

use super::{
    recorded::{Row, rows, same_body, without_counts},
    world::{Reply, World, subject},
};

const LISTENER: &str = "listener";

struct Replay {
    flavour: Flavour,
    world: World,
    /// Teams' ids by their names without the mark of the run, users' by their names.
    ids: BTreeMap<&'static str, String>,
    /// The runner that a row was granted: its id and its name.
    granted: BTreeMap<String, (String, String)>,
    old_token: Option<String>,
}

#[tokio::test(start_paused = true)]
async fn b22_every_recorded_answer_of_the_team_based_version_is_given_again() {
    replay(Flavour::Team, 230).await;
}

/// The extension adds to the recorded wire and takes nothing away.
#[tokio::test(start_paused = true)]
async fn b22_every_recorded_answer_of_the_team_based_version_is_given_again_under_the_extension() {
    replay(Flavour::SetAware, 230).await;
}

#[tokio::test(start_paused = true)]
async fn b22_every_recorded_answer_of_the_user_based_version_is_given_again() {
    replay(Flavour::User, 225).await;
}

/// Every row of the flavour's version is asked and compared, none is left out. Rows without a status are observations
/// of what the call before them did elsewhere: it is looked at there.
async fn replay(flavour: Flavour, least: usize) {
    let other = if flavour == Flavour::User { "main" } else { "arc" };
    let mut replay = Replay::new(flavour);
    let mut failures = Vec::new();
    let mut compared = 0;
    for row in rows().into_iter().filter(|row| row.version != other) {
        let Some(status) = row.status else {
            let seen = replay.observe(&row).await;
            if seen.as_ref() != Some(&row.body) {
                failures.push(format!("{}: {} became {seen:?}", row.id, row.body));
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
        } else if let Err(difference) = replay.same_body(&row, &reply) {
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
    assert!(compared > least, "only {compared} rows were compared");
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
    fn new(flavour: Flavour) -> Self {
        let mut replay = Self {
            flavour,
            world: World::new(flavour),
            ids: BTreeMap::new(),
            granted: BTreeMap::new(),
            old_token: None,
        };
        if flavour.has_teams() {
            replay.add_teams();
        } else {
            replay.add_policies();
        }
        let world = &replay.world;
        world.gharts.add_user(UserSpec {
            email: Some("admin@example.com".to_owned()),
            admin: true,
            ..UserSpec::subject("auth0|admin")
        });
        world.gharts.add_user(UserSpec {
            can_use_jit: false,
            ..UserSpec::subject(&subject("nojit"))
        });
        let deactivated = world.user("deactivated");
        replay.ids.insert("deactivated", deactivated);
        replay
    }

    fn add_teams(&mut self) {
        let (world, ids) = (&self.world, &mut self.ids);
        let gharts = &world.gharts;
        let owned = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        let team = |name: &str, required: &[&str], patterns: &[&str]| TeamSpec {
            name: format!("{name}-1c3ba6"),
            required_labels: owned(required),
            optional_label_patterns: owned(patterns),
            max_runners: None,
        };
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
        let (_, m2m) = world.user_with_team("m2m-mate", "m2mteam-1c3ba6", Some(2));
        ids.insert("m2m", m2m);
    }

    fn add_policies(&mut self) {
        let (world, ids) = (&self.world, &mut self.ids);
        let owned = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        // The usual body names a team all the same: this version takes no notice.
        ids.insert("main", "07c8483d-178d-42a0-9f48-da61d1dffa39".to_owned());
        for user in [
            "team-mate",
            LISTENER,
            "reader",
            "quota",
            "zero",
            "one",
            "free",
            "star",
            "pq",
        ] {
            ids.insert(user, world.user(user));
        }
        world.gharts.put_policy(Policy {
            allowed_labels: owned(&["arc", "linux"]),
            label_patterns: owned(&["gpu-.*", "size-[a-z]+"]),
            ..Policy::open(&subject(LISTENER))
        });
        for (user, max) in [("quota", 2), ("zero", 0), ("one", 1), ("pq", 1)] {
            world.gharts.put_policy(Policy {
                max_runners: Some(max),
                ..Policy::open(&subject(user))
            });
        }
        world.gharts.put_policy(Policy::open(&subject("star")));
        world.gharts.add_user(UserSpec {
            can_use_registration_token: false,
            ..UserSpec::subject(&subject("noreg"))
        });
    }

    /// The older version lists and counts what the caller has, or what its own run had made; rows that stand for
    /// both versions show the other one's counts. So those counts are not compared.
    fn same_body(&self, row: &Row, reply: &Reply) -> Result<(), String> {
        if self.flavour == Flavour::User {
            same_body(&without_counts(&row.body), &without_counts(&reply.text()))
        } else {
            same_body(&row.body, &reply.text())
        }
    }

    /// The extension's only mark on a recorded answer, taken off.
    fn bare(&self, mut reply: Reply) -> Reply {
        let text = reply.text();
        let bare = text.replace(r#","features":["runner_scale_set"]"#, "");
        assert_eq!(text != bare, self.flavour == Flavour::SetAware, "{text}");
        *reply.response.body_mut() = bare.into_bytes().into();
        reply
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

    /// What the recording saw, in its words.
    async fn observe(&self, row: &Row) -> Option<String> {
        match row.id.as_str() {
            "ok.prefix.github" => self.calls_for_a_runner(&row.body),
            "auth.jwks_per_request" => {
                let before = self.world.oidc.jwks_served();
                for _ in 0..5 {
                    self.get_as(LISTENER, "/api/v1/auth/me").await?;
                }
                let fetches = self.world.oidc.jwks_served() - before;
                Some(format!("5 requests to GHARTS -> {fetches} JWKS fetches"))
            }
            "runners.mate_list" => {
                let list = self.get_as("team-mate", "/api/v1/runners?limit=1000").await?;
                let holds = list.text().contains(self.runner("runners.make0"));
                let word = if holds { "True" } else { "False" };
                Some(format!("team-mate's list holds it: {word}"))
            }
            id => Some(self.after_failure(id.strip_prefix("github.")?.strip_suffix(".after")?)),
        }
    }

    /// What is on GitHub and what GHARTS knows after a call went wrong.
    fn after_failure(&self, case: &str) -> String {
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
        format!("on GitHub: {on_github}; known to GHARTS: {known}")
    }

    /// The calls for the first runner of all, if they are the recorded ones but for its name and the labels' order.
    fn calls_for_a_runner(&self, recorded: &str) -> Option<String> {
        let (_, listed) = recorded.split_once(": ")?;
        let listed: Vec<(String, String)> = serde_json::from_str(listed).unwrap();
        let made = self.world.github.lock().calls.clone();
        let body = |text: &str| -> Value {
            let mut body: Value = serde_json::from_str(text).unwrap_or_default();
            if let Some(labels) = body["labels"].as_array_mut() {
                labels.sort_unstable_by_key(ToString::to_string);
                body["name"] = Value::Null;
            }
            body
        };
        let same = listed.len() == made.len()
            && listed
                .iter()
                .zip(&made)
                .all(|((call, sent), (made, text))| call == made && body(sent) == body(text));
        same.then(|| recorded.to_owned())
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
            "prov" | "arcx" => self.older(id).await,
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
