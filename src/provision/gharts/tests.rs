use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::{
    gharts::testing::{Line, Script, client, clock, html, json as reply},
    ids::{RunnerName, SetName},
};

const ME: &str = "GET /api/v1/auth/me";
const OPENAPI: &str = "GET /openapi.json";
const JIT: &str = "POST /api/v1/runners/jit";
const DELETE: &str = "DELETE /api/v1/runners/r1";
const LIST: &str = "GET /api/v1/runners?limit=200&offset=0";
const TEAM_ID: &str = "f64ed156-775e-4e38-860d-072546fba53e";

fn provisioner(script: &Arc<Script>, team: Option<&str>) -> GhartsProvisioner {
    bound(script, team, Binding::ScaleSet)
}

fn bound(script: &Arc<Script>, team: Option<&str>, binding: Binding) -> GhartsProvisioner {
    GhartsProvisioner::new(Arc::new(client(script)), clock(), team.map(str::to_owned), binding)
}

fn request() -> JitRequest {
    JitRequest {
        set: SetName::new("linux-large"),
        scale_set_id: 42,
        name: RunnerName::new("linux-large-k3f7q-9d2m4x8w1z"),
        labels: vec!["linux".into()],
        work_folder: "_work".into(),
    }
}

fn me(features: &[&str]) -> Line {
    me_of(json!({"user_id": "u", "teams": [{"id": TEAM_ID, "name": "arc-team"}], "features": features}))
}

fn teams_of(teams: &Value) -> Line {
    let body = json!({"teams": teams, "total": 0}).to_string();
    reply("GET /api/v1/admin/teams", 200, &body)
}

#[expect(clippy::needless_pass_by_value, reason = "made in place")]
fn me_of(body: Value) -> Line {
    reply(ME, 200, &body.to_string())
}

fn aware() -> Line {
    me(&["runner_scale_set"])
}

fn openapi(field: &str) -> Line {
    let document = json!({"components": {"schemas": {"JitProvisionRequest": {"properties": {field: {}}}}}});
    reply(OPENAPI, 200, &document.to_string())
}

fn granted(echo: Option<i64>) -> Line {
    granted_as(request().name.as_str(), 1057, echo)
}

fn granted_as(name: &str, agent_id: i64, echo: Option<i64>) -> Line {
    let body = json!({"runner_id": "r1", "runner_name": name, "encoded_jit_config": "Y29uZg==",
        "labels": [], "expires_at": "2026-11-23T08:29:00.123456", "run_command": "./run.sh",
        "runner_scale_set_id": echo, "github_runner_id": agent_id});
    reply(JIT, 201, &body.to_string())
}

fn given_back() -> Line {
    reply(DELETE, 200, r#"{"success":true}"#)
}

async fn refused(provisioner: &GhartsProvisioner) -> Refusal {
    provisioner.provision(&request()).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn b43_a_server_with_the_feature_flag_gets_both_fields_and_is_asked_once_what_it_is() {
    let script = Script::of([aware(), granted(Some(42)), granted(Some(42))]);
    let provisioner = provisioner(&script, Some("arc-team"));
    let runner = provisioner.provision(&request()).await.unwrap();
    assert_eq!(runner.jit_config.expose_secret(), "Y29uZg==");
    assert_eq!((runner.agent_id, runner.gharts_id.as_deref()), (Some(1057), Some("r1")));
    assert!(!format!("{runner:?}").contains("Y29uZg"));
    provisioner.provision(&request()).await.unwrap();
    script.assert_finished();
    assert_eq!(
        script.bodies()[1],
        json!({"runner_name": "linux-large-k3f7q-9d2m4x8w1z", "labels": ["linux"], "team_id": TEAM_ID, "team_name": "arc-team",
            "work_folder": "_work", "runner_scale_set_id": 42, "runner_scale_set_name": "linux-large"})
    );
}

#[tokio::test(start_paused = true)]
async fn b43_without_the_flag_the_api_description_decides() {
    let script = Script::of([me(&[]), openapi("runner_scale_set_id"), granted(Some(42))]);
    provisioner(&script, None).provision(&request()).await.unwrap();
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b43_an_unaware_server_is_recognised_without_a_request_and_asked_again_each_time() {
    let script = Script::of([me(&[]), openapi("labels")]);
    let provisioner = provisioner(&script, None);
    let refusal = refused(&provisioner).await;
    assert_eq!(refusal.class, Class::BindingUnsupported);
    for remedy in ["docs/gharts-extension.md", "provisioner: scaleSet"] {
        assert!(refusal.message.contains(remedy), "{refusal}");
    }
    // It was upgraded.
    script.then([aware(), granted(Some(42))]);
    provisioner.provision(&request()).await.unwrap();
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b43_where_nothing_describes_the_server_the_first_answer_is_the_probe() {
    let script = Script::of([me(&[]), html(OPENAPI, 200), granted(Some(42)), granted(Some(42))]);
    let provisioner = provisioner(&script, None);
    provisioner.provision(&request()).await.unwrap();
    provisioner.provision(&request()).await.unwrap();
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b43_an_answer_without_echo_is_given_back_at_once() {
    let script = Script::of([me(&[]), html(OPENAPI, 200), granted(None), given_back()]);
    let provisioner = provisioner(&script, None);
    let refusal = refused(&provisioner).await;
    assert_eq!(refusal.class, Class::BindingUnsupported);
    assert!(refusal.message.contains("given back"), "{refusal}");
    script.assert_finished();
    script.then([me(&[]), openapi("labels")]);
    assert_eq!(refused(&provisioner).await.class, Class::BindingUnsupported);
}

#[tokio::test(start_paused = true)]
async fn b43_a_server_that_was_rolled_back_is_found_out_and_its_runner_given_back() {
    let script = Script::of([
        aware(),
        granted(Some(42)),
        granted(None),
        given_back(),
        me(&[]),
        openapi("labels"),
    ]);
    let provisioner = provisioner(&script, None);
    provisioner.provision(&request()).await.unwrap();
    assert_eq!(refused(&provisioner).await.class, Class::BindingUnsupported);
    assert_eq!(refused(&provisioner).await.class, Class::BindingUnsupported);
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b43_a_runner_bound_to_another_set_is_given_back() {
    let failing = reply(DELETE, 500, r#"{"detail":"Failed to deprovision runner: "}"#);
    let script = Script::of([aware(), granted(Some(7)), failing]);
    let refusal = refused(&provisioner(&script, None)).await;
    assert_eq!(refusal.class, Class::Configuration);
    assert!(refusal.message.contains("scale set 7 instead of 42"), "{refusal}");
    assert!(
        refusal.left_behind && refusal.message.contains("could not be given back yet"),
        "{refusal}"
    );
}

#[tokio::test(start_paused = true)]
async fn b12_a_runner_under_another_name_is_given_back_and_nobodys_id_is_none() {
    let script = Script::of([aware(), granted_as("shortened", 1057, Some(42)), given_back()]);
    let refusal = refused(&provisioner(&script, None)).await;
    assert_eq!(refusal.class, Class::Configuration);
    assert!(
        refusal.message.contains("\"shortened\" (it was given back)"),
        "{refusal}"
    );
    script.assert_finished();

    let script = Script::of([aware(), granted_as(request().name.as_str(), 0, Some(42))]);
    let granted = provisioner(&script, None).provision(&request()).await.unwrap();
    assert_eq!(granted.agent_id, None);
}

#[tokio::test(start_paused = true)]
async fn b18_an_unknown_team_is_refused_before_any_request_naming_the_teams_one_has() {
    for teams in [json!([{"id": TEAM_ID, "name": "arc-team"}]), json!([])] {
        let me = me_of(json!({"user_id": "u", "teams": teams, "features": ["runner_scale_set"]}));
        let script = Script::of([me, teams_of(&json!([{"id": "x", "name": "other", "is_active": false}]))]);
        let refusal = refused(&provisioner(&script, Some("backend"))).await;
        assert_eq!(refusal.class, Class::Configuration);
        assert!(refusal.message.contains("backend"), "{refusal}");
        assert!(
            refusal.message.contains("arc-team") || refusal.message.contains("no active team"),
            "{refusal}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn b18_a_deactivated_team_is_told_with_the_reason_that_the_server_keeps_elsewhere() {
    let not_member = format!(r#"{{"detail":"User is not a member of team {TEAM_ID} or team is not active"}}"#);
    let team = json!({"id": TEAM_ID, "name": "arc-team", "is_active": false, "deactivation_reason": "budget"});
    let script = Script::of([aware(), reply(JIT, 400, &not_member), teams_of(&json!([team]))]);
    let refusal = refused(&provisioner(&script, Some("arc-team"))).await;
    assert_eq!(
        (refusal.class, refusal.status, refusal.message.as_str()),
        (
            Class::NotAuthorized,
            Some(400),
            "team arc-team is deactivated at GHARTS: budget"
        )
    );
    script.assert_finished();
}

#[test]
fn b18_b22_teams_are_named_as_each_server_wants_to_hear_it() {
    let other = "00000000-0000-4000-8000-000000000001";
    let person = Me {
        user_id: "u".into(),
        teams: Some(vec![wire::Team {
            id: TEAM_ID.into(),
            name: "arc-team".into(),
        }]),
        ..Me::default()
    };
    let machine = Me {
        user_id: "m2m:arc-team".into(),
        ..person.clone()
    };
    let teamless = Me::default();
    let id = |id: &str| {
        Ok(Team {
            id: Some(id.to_owned()),
            name: None,
        })
    };
    let class = |choice: Result<Team, Refusal>| choice.map_err(|r| r.class);
    assert_eq!(class(choose_team(None, &person)), Ok(Team::default()));
    let both = || {
        Ok(Team {
            id: Some(TEAM_ID.into()),
            name: Some("arc-team".into()),
        })
    };
    assert_eq!(class(choose_team(Some("arc-team"), &person)), both());
    assert_eq!(class(choose_team(Some(TEAM_ID), &machine)), both());
    assert_eq!(
        class(choose_team(Some(other), &person)),
        id(other),
        "the server knows better"
    );
    // A machine client's team is fixed: a foreign one would be ignored in silence.
    assert_eq!(class(choose_team(Some(other), &machine)), Err(Class::Configuration));
    assert_eq!(
        class(choose_team(Some("other-team"), &machine)),
        Err(Class::Configuration)
    );
    let by_name = Team {
        id: None,
        name: Some("arc-team".into()),
    };
    assert_eq!(class(choose_team(Some("arc-team"), &teamless)), Ok(by_name));
}

#[tokio::test(start_paused = true)]
async fn b18_a_team_that_changed_hands_is_resolved_anew() {
    let not_member = format!(r#"{{"detail":"User is not a member of team {TEAM_ID} or team is not active"}}"#);
    let script = Script::of([
        aware(),
        reply(JIT, 400, &not_member),
        teams_of(&json!([])),
        aware(),
        granted(Some(42)),
    ]);
    let provisioner = provisioner(&script, Some("arc-team"));
    assert_eq!(refused(&provisioner).await.class, Class::NotAuthorized);
    provisioner.provision(&request()).await.unwrap();
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b18_b19_refusals_keep_class_status_code_and_words() {
    for (status, body, class, code) in [
        (
            429,
            r#"{"detail":"Max runners exceeded","error_code":"QUOTA_EXCEEDED"}"#,
            Class::Quota,
            Some("QUOTA_EXCEEDED"),
        ),
        (
            400,
            r#"{"detail":"Team 'q' runner quota exceeded. Maximum allowed: 2, current: 2"}"#,
            Class::Quota,
            None,
        ),
        (
            403,
            r#"{"detail":"Missing required labels for team 'a': {'arc'}"}"#,
            Class::LabelPolicy,
            None,
        ),
        (
            403,
            r#"{"detail":"User account is deactivated."}"#,
            Class::NotAuthorized,
            None,
        ),
        (
            404,
            r#"{"detail":"Runner scale set 42 not found"}"#,
            Class::Configuration,
            None,
        ),
        (
            400,
            r#"{"detail":"GitHub API error: Already exists"}"#,
            Class::NameTaken,
            None,
        ),
        (
            400,
            r#"{"detail":"GitHub API error: Not Found"}"#,
            Class::Configuration,
            None,
        ),
        (
            400,
            r#"{"detail":"GitHub API error: injected 500"}"#,
            Class::Upstream,
            None,
        ),
    ] {
        let script = Script::of([aware(), reply(JIT, status, body)]);
        let refusal = refused(&provisioner(&script, None)).await;
        assert_eq!(
            (refusal.class, refusal.status, refusal.code.as_deref()),
            (class, Some(status), code)
        );
        let words = serde_json::from_str::<Value>(body).unwrap()["detail"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(refusal.message.contains(&words), "{refusal}");
    }
}

#[tokio::test(start_paused = true)]
async fn b18_a_malformed_request_says_what_was_sent() {
    let body = r#"{"detail":"Validation error","error_code":"VALIDATION_ERROR"}"#;
    let script = Script::of([aware(), reply(JIT, 422, body)]);
    let refusal = refused(&provisioner(&script, None)).await;
    assert_eq!(refusal.class, Class::InvalidRequest);
    assert!(
        refusal.message.contains("linux-large-k3f7q-9d2m4x8w1z") && refusal.message.contains("[linux]"),
        "{refusal}"
    );
}

#[tokio::test(start_paused = true)]
async fn b22_a_server_without_auth_me_is_judged_by_its_description() {
    let missing = || reply(ME, 404, r#"{"detail":"Not Found"}"#);
    let script = Script::of([missing(), openapi("runner_scale_set_id"), granted(Some(42))]);
    provisioner(&script, Some("arc-team"))
        .provision(&request())
        .await
        .unwrap();
    assert_eq!(script.bodies()[2]["team_name"], "arc-team");
    let script = Script::of([missing(), openapi("labels")]);
    assert_eq!(
        refused(&provisioner(&script, None)).await.class,
        Class::BindingUnsupported
    );
}

#[tokio::test(start_paused = true)]
async fn b18_a_wrong_address_is_told_before_anything_is_requested() {
    let script = Script::of([html(ME, 200)]);
    let refusal = refused(&provisioner(&script, None)).await;
    assert_eq!(refusal.class, Class::Configuration);
    assert!(refusal.message.contains("gharts.baseUrl"), "{refusal}");
}

fn registration(gharts_id: Option<&str>) -> Registration {
    Registration {
        name: request().name,
        agent_id: None,
        gharts_id: gharts_id.map(str::to_owned),
    }
}

#[tokio::test(start_paused = true)]
async fn b47_release_by_id_tells_removed_gone_busy_and_failed_apart() {
    let busy =
        r#"{"detail":"Failed to deprovision runner: Client error '422 Unprocessable Entity' for url 'http://x'"}"#;
    for (line, expected) in [
        (given_back(), Ok(Released::Removed)),
        (
            reply(
                DELETE,
                404,
                r#"{"detail":"Runner with ID 'r1' not found or not owned by you"}"#,
            ),
            Ok(Released::AlreadyGone),
        ),
        (
            reply(DELETE, 400, r#"{"detail":"Runner 'n' is already deleted"}"#),
            Ok(Released::AlreadyGone),
        ),
        (reply(DELETE, 500, busy), Err(ReleaseError::Busy)),
    ] {
        let script = Script::of([line]);
        assert_eq!(
            provisioner(&script, None).release(&registration(Some("r1"))).await,
            expected
        );
    }
    let script = Script::of([html(DELETE, 502)]);
    let error = provisioner(&script, None)
        .release(&registration(Some("r1")))
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        ReleaseError::Failed(Refusal {
            class: Class::UnknownOutcome,
            ..
        })
    ));
}

#[tokio::test(start_paused = true)]
async fn b21_release_without_an_id_looks_the_name_up() {
    let record = json!({"runners": [{"runner_id": "r0", "runner_name": "another", "status": "pending"},
        {"runner_id": "r1", "runner_name": request().name.as_str(), "status": "pending"}], "total": 2});
    let script = Script::of([reply(LIST, 200, &record.to_string()), given_back()]);
    assert_eq!(
        provisioner(&script, None).release(&registration(None)).await,
        Ok(Released::Removed)
    );
    script.assert_finished();
    let script = Script::of([reply(LIST, 200, r#"{"runners":[],"total":0}"#)]);
    assert_eq!(
        provisioner(&script, None).release(&registration(None)).await,
        Ok(Released::AlreadyGone)
    );
}

#[tokio::test(start_paused = true)]
async fn b46_records_are_the_living_ones_with_their_age_by_our_clock() {
    let list = json!({"total": 3, "runners": [
        {"runner_id": "a", "runner_name": "n1", "status": "pending", "github_runner_id": 5, "created_at": "2026-11-23T03:50:00.000001"},
        {"runner_id": "b", "runner_name": "n2", "status": "deleted", "created_at": "2026-11-23T03:50:00"},
        {"runner_id": "c", "runner_name": "n3", "status": "online", "created_at": "yesterday"}]});
    let script = Script::of([reply(LIST, 200, &list.to_string())]);
    let records = provisioner(&script, None).records().await.unwrap().unwrap();
    let known: Vec<_> = records
        .iter()
        .map(|r| (r.name.as_str(), r.agent_id, r.age.as_secs()))
        .collect();
    assert_eq!(known, [("n1", Some(5), 599), ("n3", None, 0)]);
    assert!(records[0].age < Duration::from_mins(10));
}

// ---- Other bindings -------------------------------------------------------------------------------------

const PROVISION: &str = "POST /api/v1/runners/provision";

fn labelled(script: &Arc<Script>) -> GhartsProvisioner {
    let binding = Binding::Labels {
        runner_group_id: Some(3),
    };
    bound(script, Some("arc-team"), binding)
}

#[tokio::test(start_paused = true)]
async fn b43_an_ordinary_runner_is_asked_for_without_the_extensions_fields() {
    let script = Script::of([me(&[]), granted(None), granted(None)]);
    let provisioner = labelled(&script);
    let mut request = request();
    request.labels.push("self-hosted".into());
    let runner = provisioner.provision(&request).await.unwrap();
    assert_eq!((runner.agent_id, runner.gharts_id.as_deref()), (Some(1057), Some("r1")));
    provisioner.provision(&request).await.unwrap();
    script.assert_finished();
    assert_eq!(
        script.bodies()[1],
        json!({"runner_name": "linux-large-k3f7q-9d2m4x8w1z", "labels": ["linux"], "team_id": TEAM_ID, "team_name": "arc-team",
            "work_folder": "_work", "runner_group_id": 3}),
        "self-hosted is GHARTS' own, and no policy permits it"
    );
}

fn by_token(script: &Arc<Script>) -> GhartsProvisioner {
    let binding = Binding::RegistrationToken(Box::new(GitHubAccess {
        transport: script.clone(),
        config_url: crate::config::ConfigUrl::parse("https://github.com/acme", false).unwrap(),
        seed: 1,
    }));
    bound(script, None, binding)
}

fn registration_token(github_url: &str) -> Line {
    let body = json!({"runner_id": "r1", "runner_name": request().name.as_str(), "registration_token": "AABB",
        "expires_at": "2026-11-23T05:00:00Z", "github_url": github_url, "labels": [], "ephemeral": true});
    reply(PROVISION, 201, &body.to_string())
}

const REGISTER: &str = "POST /actions/runner-registration";
const GENERATE: &str = "POST /_apis/runtime/runnerscalesets/42/generatejitconfig?api-version=6.0-preview";

fn admin() -> Line {
    let body = json!({"url": "https://pipelines.example.com", "token": "admin"});
    reply(REGISTER, 200, &body.to_string())
}

#[tokio::test(start_paused = true)]
async fn b43_a_registration_token_opens_the_sets_own_configuration() {
    let jit = json!({"runner": {"id": 9, "name": request().name.as_str(), "runnerScaleSetId": 42},
        "encodedJITConfig": "Y29uZg=="});
    let script = Script::of([
        registration_token("https://github.com/Acme/"),
        admin(),
        reply(GENERATE, 200, &jit.to_string()),
    ]);
    let runner = by_token(&script).provision(&request()).await.unwrap();
    assert_eq!(runner.jit_config.expose_secret(), "Y29uZg==");
    assert_eq!((runner.agent_id, runner.gharts_id.as_deref()), (Some(9), Some("r1")));
    script.assert_finished();
    assert_eq!(
        script.bodies()[0],
        json!({"runner_name": request().name.as_str(), "labels": [], "ephemeral": true}),
        "that version deletes a runner whose own labels differ from those asked for"
    );
}

#[tokio::test(start_paused = true)]
async fn b43_a_registration_token_for_another_organization_is_given_back() {
    let script = Script::of([registration_token("https://github.com/other"), given_back()]);
    let refusal = refused(&by_token(&script)).await;
    assert_eq!(refusal.class, Class::Configuration);
    assert!(refusal.message.contains("https://github.com/other"), "{refusal}");
    assert!(refusal.message.contains("given back"), "{refusal}");
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b47_the_record_is_given_back_when_github_refuses_the_configuration() {
    let taken = json!({"typeName": "AgentExistsException", "message": "taken"});
    let script = Script::of([
        registration_token("https://github.com/acme"),
        admin(),
        reply(GENERATE, 409, &taken.to_string()),
        given_back(),
    ]);
    assert_eq!(refused(&by_token(&script)).await.class, Class::NameTaken);
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b43_a_version_without_registration_tokens_is_told_apart() {
    let script = Script::of([reply(PROVISION, 405, r#"{"detail":"Method Not Allowed"}"#)]);
    let refusal = refused(&by_token(&script)).await;
    assert_eq!(refusal.class, Class::BindingUnsupported);
    assert!(refusal.message.contains("provisioner: scaleSet"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn b19_who_pays_is_the_team_by_its_name_however_the_file_names_it() {
    let one = json!([{"id": TEAM_ID, "name": "arc-team"}]);
    let two = json!([{"id": TEAM_ID, "name": "arc-team"}, {"id": "x", "name": "other"}]);
    for (teams, wanted, payer) in [
        (&one, Some("arc-team"), Some("team arc-team")),
        (&one, Some(TEAM_ID), Some("team arc-team")),
        (&one, None, Some("team arc-team")),
        (&two, Some(TEAM_ID), Some("team arc-team")),
        // GHARTS takes any of them.
        (&two, None, None),
    ] {
        let script = Script::of([me_of(json!({"teams": teams, "features": ["runner_scale_set"]}))]);
        let standing = provisioner(&script, wanted).probe().await.unwrap();
        assert_eq!(standing.payer.as_deref(), payer, "{wanted:?} of {teams}");
    }
    let script = Script::of([me_of(json!({"can_use_registration_token": true}))]);
    let labels = Binding::Labels { runner_group_id: None };
    let standing = bound(&script, Some("no-teams-there"), labels).probe().await.unwrap();
    assert_eq!(standing.payer.as_deref(), Some("this identity"));
}

#[tokio::test(start_paused = true)]
async fn b18_a_probe_is_refused_where_a_request_would_be() {
    let labels = || Binding::Labels { runner_group_id: None };
    let flag = json!(["runner_scale_set"]);
    for (me, team, binding, class, word) in [
        (
            json!({"can_use_jit": false, "features": flag}),
            None,
            Binding::ScaleSet,
            Class::NotAuthorized,
            "can_use_jit",
        ),
        (
            json!({"teams": [], "features": flag}),
            None,
            Binding::ScaleSet,
            Class::NotAuthorized,
            "no active team",
        ),
        (
            json!({"teams": [{"id": "x", "name": "other"}]}),
            Some(TEAM_ID),
            labels(),
            Class::NotAuthorized,
            TEAM_ID,
        ),
        (
            json!({"teams": [{"id": "x", "name": "other"}]}),
            Some("arc-team"),
            labels(),
            Class::Configuration,
            "arc-team",
        ),
    ] {
        let teams = team.map(|_| teams_of(&json!([])));
        let script = Script::of([me_of(me)].into_iter().chain(teams));
        let refusal = bound(&script, team, binding).probe().await.unwrap_err();
        assert_eq!(refusal.class, class, "{refusal}");
        assert!(refusal.message.contains(word), "{refusal}");
        script.assert_finished();
    }
}

#[tokio::test(start_paused = true)]
async fn b43_a_probe_asks_anew_what_a_request_takes_for_known() {
    let script = Script::of([aware(), granted(Some(42))]);
    let provisioner = provisioner(&script, None);
    provisioner.probe().await.unwrap();
    provisioner.provision(&request()).await.unwrap();
    script.assert_finished();
    script.then([me(&[]), openapi("labels")]);
    assert_eq!(provisioner.probe().await.unwrap_err().class, Class::BindingUnsupported);
    // What was known is known no more.
    script.then([me(&[]), openapi("labels")]);
    assert_eq!(refused(&provisioner).await.class, Class::BindingUnsupported);
    script.assert_finished();
}
