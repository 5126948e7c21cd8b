//! Scale sets (B25) and runners (B26) at the Actions service.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use gharts_listener::scaleset::{Error, GroupAccess, Missing, NoteKind, Registered, Removal, Spec, ensure};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::fake::{Fake, bytes_reply, exception, json_reply, lost};

const GROUPS: &str = "/runnergroups/";
const SETS: &str = "/runnerscalesets";
const SET: &str = "/runnerscalesets/5";
const JIT: &str = "/runnerscalesets/5/generatejitconfig";
const AGENTS: &str = "/pools/0/agents";

fn set(group: i64, labels: &[&str]) -> Value {
    let labels: Vec<Value> = labels.iter().map(|l| json!({"type": "System", "name": l})).collect();
    json!({"id": 5, "name": "linux", "runnerGroupId": group, "labels": labels, "RunnerSetting": {"disableUpdate": true}})
}

fn list(sets: &[Value]) -> Value {
    json!({"count": sets.len(), "value": sets})
}

fn spec(labels: &[&str]) -> Spec {
    Spec {
        group: "Big & Büro".into(),
        name: "linux".into(),
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        disable_update: true,
        known_id: None,
        inherited_id: None,
    }
}

/// A scale set as a service stores it, which keeps of new labels what `keep` lets pass.
fn service(start: Option<Value>, keep: fn(&Value) -> bool) -> Fake {
    let fake = Fake::new(Duration::from_secs(3600));
    fake.on(
        "GET",
        GROUPS,
        vec![json_reply(200, json!({"value": [{"id": 3, "name": "Big & Büro"}]}))],
    );
    let stored = Arc::new(Mutex::new(start));
    let (on_list, on_get, on_put) = (stored.clone(), stored.clone(), stored.clone());
    let (on_post, on_patch) = (stored.clone(), stored);
    let ok = |v: Value| Ok(super::fake::response(200, v.to_string().as_bytes()));
    let filtered = move |body: &Value| {
        let labels = body["labels"].as_array().unwrap();
        json!(labels.iter().filter(|l| keep(&l["name"])).collect::<Vec<_>>())
    };
    fake.on(
        "GET",
        SETS,
        vec![Arc::new(move |_| ok(list(on_list.lock().unwrap().as_slice())))],
    );
    fake.on(
        "GET",
        SET,
        vec![Arc::new(move |_| ok(on_get.lock().unwrap().clone().unwrap()))],
    );
    fake.on(
        "PUT",
        SET,
        vec![Arc::new(move |seen| {
            let mut stored = on_put.lock().unwrap();
            stored.as_mut().unwrap()["labels"] = filtered(&seen.body);
            ok(stored.clone().unwrap())
        })],
    );
    fake.on(
        "PATCH",
        SET,
        vec![Arc::new(move |seen| {
            let mut stored = on_patch.lock().unwrap();
            stored.as_mut().unwrap()["runnerGroupId"] = seen.body["runnerGroupId"].clone();
            ok(stored.clone().unwrap())
        })],
    );
    fake.on(
        "POST",
        SETS,
        vec![Arc::new(move |seen| {
            let mut made = seen.body.clone();
            made["id"] = json!(5);
            made["labels"] = filtered(&seen.body);
            *on_post.lock().unwrap() = Some(made.clone());
            ok(made)
        })],
    );
    fake
}

async fn ensured(fake: &Fake, spec: &Spec) -> Registered {
    let result = ensure(&fake.connection(), spec).await.unwrap();
    assert!(
        fake.all_seen().iter().all(|s| s.method != "DELETE"),
        "registration never deletes"
    );
    result
}

#[tokio::test(start_paused = true)]
async fn b25_a_missing_set_is_created_with_group_labels_and_no_self_update() {
    let fake = service(None, |_| true);
    let made = ensured(&fake, &spec(&["linux", "x64"])).await;
    assert!(made.created && made.notes.is_empty(), "{:?}", made.notes);
    assert_eq!(made.scale_set.labels, ["linux", "x64"]);
    let post = &fake.seen("POST", SETS)[0];
    assert_eq!(post.body, {
        let mut body = set(3, &["linux", "x64"]);
        body.as_object_mut().unwrap().remove("id");
        body
    });
    let group = &fake.seen("GET", GROUPS)[0];
    assert!(
        group
            .url
            .contains("?groupName=Big%20%26%20B%C3%BCro&api-version=6.0-preview"),
        "{}",
        group.url
    );
    let find = &fake.seen("GET", SETS)[0];
    assert!(find.url.contains("?runnerGroupId=3&name=linux&"), "{}", find.url);
}

#[tokio::test(start_paused = true)]
async fn b25_a_set_that_is_right_is_adopted_untouched() {
    let fake = service(Some(set(3, &["X64", "linux"])), |_| true);
    let found = ensured(&fake, &spec(&["linux", "x64"])).await;
    assert!(!found.created && found.notes.is_empty());
    assert!(
        fake.all_seen()
            .iter()
            .all(|s| s.method == "GET" || s.url.contains("api.github.com"))
    );
}

#[tokio::test(start_paused = true)]
async fn b25_labels_are_put_read_back_and_what_the_service_dropped_is_told() {
    let fake = service(Some(set(3, &["old"])), |_| true);
    let changed = ensured(&fake, &spec(&["linux", "gpu"])).await;
    assert_eq!(changed.scale_set.labels, ["linux", "gpu"]);
    assert_eq!(
        (changed.notes.len(), changed.changes.len()),
        (0, 1),
        "{:?}",
        changed.changes
    );

    let fake = service(None, |label| label == "linux");
    let made = ensured(&fake, &spec(&["linux", "gpu"])).await;
    assert!(made.created);
    assert_eq!(made.scale_set.labels, ["linux"]);
    assert!(
        made.notes
            .iter()
            .any(|n| n.message.contains("did not store label \"gpu\"")),
        "{:?}",
        made.notes
    );
}

#[tokio::test(start_paused = true)]
async fn b25_a_service_that_cannot_change_labels_does_not_stop_the_set() {
    let fake = service(Some(set(3, &["old"])), |_| true);
    fake.on(
        "PUT",
        SET,
        vec![json_reply(405, json!({"message": "Method Not Allowed"}))],
    );
    let found = ensured(&fake, &spec(&["linux"])).await;
    assert_eq!(found.scale_set.labels, ["old"]);
    assert!(
        found.notes.iter().any(|n| n.message.contains("Method Not Allowed")),
        "{:?}",
        found.notes
    );
    assert!(
        found.notes.iter().any(|n| n.message.contains("keeps label \"old\"")),
        "{:?}",
        found.notes
    );
}

#[tokio::test(start_paused = true)]
async fn b25_whoever_creates_second_takes_what_the_first_made() {
    let fake = service(Some(set(3, &["linux"])), |_| true);
    fake.on(
        "GET",
        SETS,
        vec![json_reply(200, list(&[])), json_reply(200, list(&[set(3, &["linux"])]))],
    );
    fake.on(
        "POST",
        SETS,
        vec![exception(409, "RunnerScaleSetExistsException", "exists")],
    );
    let found = ensured(&fake, &spec(&["linux"])).await;
    assert!(!found.created && found.notes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn b25_a_set_in_another_group_is_moved() {
    let fake = service(Some(set(1, &["linux"])), |_| true);
    let none = json_reply(200, list(&[]));
    fake.on(
        "GET",
        SETS,
        vec![none.clone(), none, json_reply(200, list(&[set(1, &["linux"])]))],
    );
    fake.on(
        "POST",
        SETS,
        vec![exception(409, "RunnerScaleSetExistsException", "exists")],
    );
    let found = ensured(&fake, &spec(&["linux"])).await;
    assert_eq!(found.scale_set.runner_group_id, 3);
    assert_eq!(
        fake.seen("PATCH", SET)[0].body,
        json!({"name": "linux", "runnerGroupId": 3})
    );
    assert_eq!((found.notes.len(), found.changes.len()), (0, 2), "{:?}", found.changes);

    for (known_id, inherited_id) in [(Some(5), None), (None, Some(5))] {
        let fake = service(Some(set(1, &["linux"])), |_| true);
        let known = Spec {
            known_id,
            inherited_id,
            ..spec(&["linux"])
        };
        assert_eq!(ensured(&fake, &known).await.scale_set.runner_group_id, 3);
        assert_eq!(fake.seen("POST", SETS).len(), 0);
    }
}

/// The organization was made anew, say, and its ids begin at 1 again.
#[tokio::test(start_paused = true)]
async fn b25_b46_an_id_that_is_another_sets_by_now_is_not_believed() {
    for (known_id, inherited_id) in [(Some(7), None), (None, Some(7))] {
        let fake = service(Some(set(3, &["linux"])), |_| true);
        let mut other = set(3, &["other"]);
        (other["id"], other["name"]) = (json!(7), json!("other"));
        fake.on("GET", "/_apis/runtime/runnerscalesets/7", vec![json_reply(200, other)]);
        let spec = Spec {
            known_id,
            inherited_id,
            ..spec(&["linux"])
        };
        assert_eq!(ensured(&fake, &spec).await.scale_set.id, 5);
        assert!(
            fake.all_seen()
                .iter()
                .all(|seen| !seen.url.contains("/7") || seen.method == "GET")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn b25_a_namesake_in_another_group_is_told_and_left_alone() {
    let fake = service(None, |_| true);
    let mut namesake = set(9, &["linux"]);
    namesake["id"] = json!(77);
    fake.on(
        "GET",
        SETS,
        vec![json_reply(200, list(&[])), json_reply(200, list(&[namesake]))],
    );
    let made = ensured(&fake, &spec(&["linux"])).await;
    assert!(made.created);
    let kinds: Vec<NoteKind> = made.notes.iter().map(|n| n.kind).collect();
    assert_eq!(kinds, [NoteKind::NameElsewhere]);
    assert!(fake.all_seen().iter().all(|s| !s.url.contains("/runnerscalesets/77")));
}

fn group(id: i64, name: &str, settings: Value) -> Value {
    let mut group = json!({"id": id, "name": name, "visibility": "all", "allows_public_repositories": true});
    for (key, value) in settings.as_object().unwrap() {
        group[key] = value.clone();
    }
    group
}

#[tokio::test(start_paused = true)]
async fn b25_whom_groups_let_in_is_read_where_it_may_be_read() {
    let fake = Fake::new(Duration::from_secs(3600));
    let groups = [
        group(
            1,
            "Default",
            json!({"default": true, "allows_public_repositories": false}),
        ),
        group(
            2,
            "Big",
            json!({"visibility": "selected", "restricted_to_workflows": true}),
        ),
        group(3, "Other", json!({"visibility": "private"})),
    ];
    let answer = json_reply(200, json!({"total_count": 3, "runner_groups": groups}));
    fake.on("GET", "/orgs/acme/actions/runner-groups", vec![answer]);
    let none = json_reply(200, json!({"total_count": 0, "repositories": []}));
    fake.on("GET", "/runner-groups/2/repositories", vec![none]);
    let connection = fake.connection();
    let names = ["default", "big", "gone"].map(str::to_owned);
    let found = connection.group_access(&names).await.unwrap().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["big", "default"]);
    let big = GroupAccess {
        name: "Big".to_owned(),
        public_repositories: true,
        selected: Some(0),
        workflows: Some(Vec::new()),
    };
    assert_eq!(found["big"], big);
    assert!(!found["default"].public_repositories);
    let asked = &fake.seen("GET", "/orgs/acme/actions/runner-groups")[0];
    assert!(
        asked
            .url
            .starts_with("https://api.github.com/orgs/acme/actions/runner-groups?")
    );
    assert_eq!(
        fake.seen("GET", "/runner-groups/2/repositories").len(),
        1,
        "nobody asked for the others"
    );

    // Not for repositories, and silence where it cannot be read.
    let none = fake
        .connection_to("https://github.com/acme/app")
        .group_access(&names)
        .await;
    assert_eq!(none.unwrap(), None);
    for status in [401, 403, 404] {
        let refusal = json_reply(status, json!({"message": "no"}));
        fake.on("GET", "/orgs/acme/actions/runner-groups", vec![refusal]);
        assert_eq!(connection.group_access(&names).await.unwrap(), None);
    }
    fake.on(
        "GET",
        "/orgs/acme/actions/runner-groups",
        vec![json_reply(502, json!({}))],
    );
    assert!(connection.group_access(&names).await.unwrap_err().is_transient());
}

#[tokio::test(start_paused = true)]
async fn b25_groups_of_an_enterprise_are_read_page_by_page_and_list_organizations() {
    let fake = Fake::new(Duration::from_secs(3600));
    let page = |ids: std::ops::Range<i64>| {
        let groups: Vec<Value> = ids
            .map(|id| group(id, &format!("group-{id}"), json!({"visibility": "selected"})))
            .collect();
        json_reply(200, json!({"runner_groups": groups}))
    };
    fake.on(
        "GET",
        "/enterprises/big/actions/runner-groups",
        vec![page(1..101), page(101..131)],
    );
    let three = json_reply(200, json!({"total_count": 3, "organizations": []}));
    fake.on("GET", "/runner-groups/120/organizations", vec![three]);
    let connection = fake.connection_to("https://github.com/enterprises/big");
    let found = connection
        .group_access(&["group-120".to_owned()])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found["group-120"].selected, Some(3));
    assert_eq!(fake.seen("GET", "/enterprises/big/actions/runner-groups").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn b25_an_unknown_group_is_an_error_but_the_default_group_always_exists() {
    let fake = service(None, |_| true);
    fake.on("GET", GROUPS, vec![json_reply(200, json!({"count": 0, "value": []}))]);
    let error = ensure(&fake.connection(), &spec(&["linux"])).await.unwrap_err();
    assert!(matches!(
        error,
        Error::NotFound {
            what: Missing::RunnerGroup,
            ..
        }
    ));
    assert!(
        error.to_string().contains("Big & Büro") && !error.is_transient(),
        "{error}"
    );

    let default = Spec {
        group: "Default".into(),
        ..spec(&["linux"])
    };
    assert_eq!(ensured(&fake, &default).await.scale_set.runner_group_id, 1);
}

fn runners() -> Fake {
    Fake::new(Duration::from_secs(3600))
}

#[tokio::test(start_paused = true)]
async fn a_jit_configuration_comes_as_a_secret() {
    let fake = runners();
    let answer = json!({"runner": {"id": 9, "name": "r-1", "runnerScaleSetId": 5}, "encodedJITConfig": "Sml0"});
    fake.on("POST", JIT, vec![json_reply(200, answer)]);
    let jit = fake.connection().generate_jit_config(5, "r-1", "_work").await.unwrap();
    assert_eq!(
        (jit.agent_id, jit.name.as_str(), jit.config.expose_secret()),
        (Some(9), "r-1", "Sml0")
    );
    assert!(!format!("{jit:?}").contains("Sml0"));
    assert_eq!(
        fake.seen("POST", JIT)[0].body,
        json!({"name": "r-1", "workFolder": "_work"})
    );
}

#[tokio::test(start_paused = true)]
async fn b26_a_taken_name_has_its_own_error_with_and_without_its_exception() {
    let fake = runners();
    for reply in [
        exception(409, "AgentExistsException", "r-1 exists"),
        bytes_reply(409, b"conflict"),
    ] {
        fake.on("POST", JIT, vec![reply]);
        let error = fake
            .connection()
            .generate_jit_config(5, "r-1", "_work")
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::AgentExists(_)) && !error.outcome_unknown(),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn b21_after_a_lost_or_garbled_answer_the_registration_may_exist() {
    let fake = runners();
    let secretive = json_reply(200, json!({"runner": {"id": "x"}, "encodedJITConfig": "c2VjcmV0"}));
    for reply in [lost(), json_reply(500, json!({})), secretive] {
        fake.on("POST", JIT, vec![reply]);
        let error = fake
            .connection()
            .generate_jit_config(5, "r-1", "_work")
            .await
            .unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        assert!(!format!("{error} {error:?}").contains("c2VjcmV0"), "{error}");
    }
    assert_eq!(fake.seen("POST", JIT).len(), 3, "the client repeats nothing by itself");
}

#[tokio::test(start_paused = true)]
async fn a_runner_is_found_by_its_exact_name() {
    let fake = runners();
    let both = json!({"value": [{"id": 1, "name": "r-10"}, {"id": 2, "name": "r-1", "runnerScaleSetId": 5, "status": "online"}]});
    fake.on(
        "GET",
        AGENTS,
        vec![json_reply(200, both), json_reply(200, json!({"value": null}))],
    );
    let connection = fake.connection();
    let agent = connection.agent_by_name("r-1").await.unwrap().unwrap();
    assert_eq!(
        (agent.id, agent.runner_scale_set_id, agent.is_online()),
        (2, Some(5), true)
    );
    assert!(fake.seen("GET", AGENTS)[0].url.contains("?agentName=r-1&"));
    assert_eq!(connection.agent_by_name("r-1").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn b12_a_busy_runner_is_not_removed() {
    let fake = runners();
    let connection = fake.connection();
    for (reply, expected) in [
        (bytes_reply(204, b""), Removal::Removed),
        (exception(404, "AgentNotFoundException", "gone"), Removal::AlreadyGone),
        (bytes_reply(404, b""), Removal::AlreadyGone),
        (exception(400, "JobStillRunningException", "busy"), Removal::Busy),
    ] {
        fake.on("DELETE", "/pools/0/agents/7", vec![reply]);
        assert_eq!(connection.delete_agent(7).await.unwrap(), expected);
    }
    fake.on(
        "DELETE",
        "/pools/0/agents/7",
        vec![json_reply(400, json!({"message": "no"}))],
    );
    assert!(matches!(connection.delete_agent(7).await, Err(Error::Invalid(_))));
}

/// Where the service is not, or is another one, every path is a 404.
#[tokio::test(start_paused = true)]
async fn b12_only_a_list_proves_that_a_runner_is_not_registered() {
    let fake = runners();
    let connection = fake.connection();
    for nothing in [bytes_reply(404, b""), json_reply(404, json!({"message": "no route"}))] {
        fake.on("GET", "/pools/0/agents", vec![nothing]);
        connection.agent_by_name("r").await.unwrap_err();
    }
    fake.on(
        "GET",
        "/pools/0/agents",
        vec![json_reply(200, json!({"count": 0, "value": []}))],
    );
    assert_eq!(connection.agent_by_name("r").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn b12_a_web_page_from_something_in_between_proves_no_removal() {
    let fake = runners();
    let connection = fake.connection();
    for status in [200, 404, 410] {
        let page = b"<html><body>Sorry</body></html>";
        fake.on("DELETE", "/pools/0/agents/7", vec![bytes_reply(status, page)]);
        let error = connection.delete_agent(7).await.unwrap_err();
        assert!(
            matches!(error, Error::Decode(_) | Error::Server { .. }),
            "{status}: {error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn all_sets_are_listed_with_their_statistics() {
    let fake = runners();
    let mut one = set(3, &["linux"]);
    one["statistics"] = json!({"totalAvailableJobs": 6});
    fake.on("GET", SETS, vec![json_reply(200, list(&[one, set(1, &[])]))]);
    let sets = fake.connection().list_scale_sets().await.unwrap();
    assert_eq!((sets.len(), sets[0].statistics.unwrap().total_available_jobs), (2, 6));
    assert_eq!(sets[1].statistics, None);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_github_removed_is_told_apart() {
    let fake = runners();
    fake.on(
        "DELETE",
        SET,
        vec![exception(404, "RunnerScaleSetNotFoundException", "unused for 7 days")],
    );
    let error = fake.connection().delete_scale_set(5).await.unwrap_err();
    assert!(matches!(
        error,
        Error::NotFound {
            what: Missing::ScaleSet,
            ..
        }
    ));
}
