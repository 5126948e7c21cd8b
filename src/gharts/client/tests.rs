use super::{
    super::testing::{Script, answer, client, client_with, fails, html, json, slow},
    *,
};
use crate::identity::{Token, TokenSource};

const JIT: &str = "POST /api/v1/runners/jit";
const GRANTED: &str = r#"{"runner_id":"r1","runner_name":"n","encoded_jit_config":"c0nf1g","labels":[],
    "expires_at":"2026-11-23T05:00:00.123456","run_command":"./run.sh","runner_scale_set_id":42}"#;

fn request() -> JitRequest {
    JitRequest {
        runner_name: "n".into(),
        labels: vec!["linux".into()],
        team_id: None,
        team_name: None,
        work_folder: "_work".into(),
        runner_group_id: None,
        scale_set: Some(crate::gharts::wire::ScaleSetFields {
            runner_scale_set_id: 42,
            runner_scale_set_name: "linux-large".into(),
        }),
    }
}

fn refused(status: u16, detail: &str) -> super::super::testing::Line {
    json(JIT, status, &serde_json::json!({"detail": detail}).to_string())
}

#[tokio::test(start_paused = true)]
async fn b17_a_refused_token_is_renewed_once_and_the_same_request_repeated() {
    let script = Script::of([
        refused(401, "Token validation failed: Signature has expired."),
        json(JIT, 201, GRANTED),
    ]);
    let answer = client(&script).jit(&request()).await.unwrap();
    assert_eq!(answer.runner_id, "r1");
    assert_eq!(script.tokens(), ["t0", "t1"]);
    let bodies = script.bodies();
    assert_eq!(bodies[0], bodies[1], "same name, same everything");
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b17_a_second_refusal_is_a_failure_of_the_credentials() {
    let script = Script::of([
        refused(401, "Token validation failed: Invalid audience"),
        refused(401, "Token validation failed: Invalid audience"),
    ]);
    let failure = client(&script).jit(&request()).await.unwrap_err();
    assert_eq!((failure.trouble, failure.status), (Trouble::Credentials, Some(401)));
    assert!(failure.message.contains("Invalid audience"), "{failure}");
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b17_an_ill_issuer_and_a_skewed_clock_keep_the_token_and_are_not_repeated() {
    for (detail, trouble) in [
        (
            "Authentication failed: 503: Failed to fetch JWKS: ",
            Trouble::IssuerDown,
        ),
        (
            "Token validation failed: The token is not yet valid (nbf)",
            Trouble::ClockSkew,
        ),
    ] {
        let script = Script::of([refused(401, detail)]);
        let client = client(&script);
        assert_eq!(client.jit(&request()).await.unwrap_err().trouble, trouble);
        script.then([json(JIT, 201, GRANTED)]);
        client.jit(&request()).await.unwrap();
        assert_eq!(script.tokens(), ["t0", "t0"], "{detail}");
    }
}

#[derive(Debug)]
struct NoTokens(TokenError);

impl TokenSource for NoTokens {
    fn fetch(&self) -> futures::future::BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(async { Err(self.0.clone()) })
    }

    fn describe(&self) -> String {
        "no tokens".into()
    }
}

#[tokio::test(start_paused = true)]
async fn b17_where_no_token_can_be_had_the_service_is_not_asked() {
    let message = String::from("why");
    for (error, trouble) in [
        (
            TokenError::Refused {
                message: message.clone(),
            },
            Trouble::Credentials,
        ),
        (TokenError::Unavailable { message }, Trouble::IssuerDown),
    ] {
        let script = Script::of([]);
        let client = client_with(&script, Arc::new(NoTokens(error)));
        let failure = client.jit(&request()).await.unwrap_err();
        assert_eq!((failure.trouble, failure.message.as_str()), (trouble, "why"));
    }
}

#[tokio::test(start_paused = true)]
async fn b20_nothing_but_a_401_is_repeated_and_retry_after_is_handed_on() {
    let seconds = [("content-type", "application/json"), ("retry-after", "17")];
    let [days, never] =
        ["864000", "18446744073709551615"].map(|wait| [("content-type", "application/json"), ("retry-after", wait)]);
    let date = [
        ("content-type", "text/html"),
        ("retry-after", "Mon, 23 Nov 2026 04:01:00 GMT"),
    ];
    for (line, trouble, retry_after) in [
        (
            answer(JIT, 429, &seconds, r#"{"detail":"slow down"}"#),
            Trouble::RateLimited,
            Some(17),
        ),
        (answer(JIT, 503, &date, "<html>"), Trouble::UnknownOutcome, Some(60)),
        (html(JIT, 502), Trouble::UnknownOutcome, None),
        // For ten days; and more seconds than any clock has.
        (answer(JIT, 429, &days, "{}"), Trouble::RateLimited, Some(3_600)),
        (answer(JIT, 429, &never, "{}"), Trouble::RateLimited, Some(3_600)),
        (
            refused(500, "Failed to provision JIT runner: "),
            Trouble::UnknownOutcome,
            None,
        ),
        (refused(400, "GitHub API error: injected 500"), Trouble::Upstream, None),
    ] {
        let script = Script::of([line]);
        let failure = client(&script).jit(&request()).await.unwrap_err();
        assert_eq!(failure.trouble, trouble);
        assert_eq!(failure.retry_after.map(|d| d.as_secs()), retry_after);
        script.assert_finished();
    }
}

#[tokio::test(start_paused = true)]
async fn b20_b21_a_lost_answer_is_an_unknown_outcome_and_a_refused_connection_is_none() {
    let peer = || "gharts.example.com".to_owned();
    let reason = || "reset".to_owned();
    let lost = TransportError::Lost {
        peer: peer(),
        reason: reason(),
    };
    let never = TransportError::Connect {
        peer: peer(),
        reason: reason(),
    };
    for (line, trouble) in [
        (fails(JIT, lost), Trouble::UnknownOutcome),
        (fails(JIT, never), Trouble::Unreachable),
        (slow(json(JIT, 201, GRANTED), Duration::from_secs(46)), Trouble::Stalled),
    ] {
        let script = Script::of([line]);
        let failure = client(&script).jit(&request()).await.unwrap_err();
        assert_eq!((failure.trouble, failure.status), (trouble, None));
    }
    let internal = r#"{"detail":"Internal server error","error_code":"INTERNAL_ERROR"}"#;
    for (seconds, trouble) in [(29, Trouble::UnknownOutcome), (31, Trouble::Stalled)] {
        let script = Script::of([slow(json(JIT, 500, internal), Duration::from_secs(seconds))]);
        let failure = client(&script).jit(&request()).await.unwrap_err();
        assert_eq!((failure.trouble, failure.status), (trouble, Some(500)));
    }
    let script = Script::of([slow(json(JIT, 201, GRANTED), Duration::from_secs(44))]);
    assert!(
        client(&script).jit(&request()).await.is_ok(),
        "a slow answer within the deadline serves"
    );
}

#[tokio::test(start_paused = true)]
async fn b18_redirects_and_web_pages_mean_a_wrong_address() {
    let moved = [("location", "http://gharts.example.com/api/v1/runners/jit")];
    for line in [answer(JIT, 307, &moved, ""), html(JIT, 200), html(JIT, 404)] {
        let script = Script::of([line]);
        let failure = client(&script).jit(&request()).await.unwrap_err();
        assert_eq!(failure.trouble, Trouble::Configuration);
        assert!(failure.message.contains("gharts.baseUrl"), "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn b21_a_grant_that_cannot_be_decoded_is_given_back() {
    let script = Script::of([
        json(JIT, 201, r#"{"runner_id":"r/9","encoded_jit_config":null}"#),
        json("DELETE /api/v1/runners/r%2F9", 200, r#"{"success":true}"#),
    ]);
    let failure = client(&script).jit(&request()).await.unwrap_err();
    assert_eq!(failure.trouble, Trouble::UnknownOutcome);
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b29_no_failure_shows_the_configuration_or_the_token() {
    let script = Script::of([
        json(JIT, 201, r#"{"runner_id":7,"encoded_jit_config":"c0nf1g"}"#),
        refused(500, "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"),
    ]);
    let client = client(&script);
    for _ in 0..2 {
        let failure = format!("{:?}", client.jit(&request()).await.unwrap_err());
        assert!(
            !failure.contains("c0nf1g") && !failure.contains("eyJ") && !failure.contains("t0"),
            "{failure}"
        );
    }
    assert!(!format!("{client:?}").contains("t0"));
}

#[tokio::test(start_paused = true)]
async fn b47_deletions_tell_removed_gone_and_busy_apart() {
    const CALL: &str = "DELETE /api/v1/runners/r1";
    let busy =
        r#"{"detail":"Failed to deprovision runner: Client error '422 Unprocessable Entity' for url 'http://x'"}"#;
    for (line, expected) in [
        (json(CALL, 200, r#"{"success":true}"#), Deleted::Removed),
        (answer(CALL, 204, &[], ""), Deleted::Removed),
        (
            json(
                CALL,
                404,
                r#"{"detail":"Runner with ID 'r1' not found or not owned by you"}"#,
            ),
            Deleted::Gone,
        ),
        (
            json(CALL, 400, r#"{"detail":"Runner 'n' is already deleted"}"#),
            Deleted::Gone,
        ),
        (json(CALL, 500, busy), Deleted::Busy),
    ] {
        let script = Script::of([line]);
        assert_eq!(client(&script).delete("r1").await.unwrap(), expected);
    }
    let script = Script::of([json(CALL, 500, r#"{"detail":"Failed to deprovision runner: "}"#)]);
    let failure = client(&script).delete("r1").await.unwrap_err();
    assert_eq!(failure.trouble, Trouble::UnknownOutcome);
}

#[tokio::test(start_paused = true)]
async fn b12_a_web_page_from_something_in_between_proves_no_removal() {
    for status in [200, 404, 410] {
        let page = answer(
            "DELETE /api/v1/runners/r1",
            status,
            &[],
            "<html><body>Sorry</body></html>",
        );
        let script = Script::of([page]);
        let outcome = client(&script).delete("r1").await;
        assert!(outcome.is_err(), "{status}: {outcome:?}");
    }
}

/// A page with the records `ids`, of a list that has `total`.
fn page(offset: usize, ids: std::ops::Range<usize>, total: usize) -> super::super::testing::Line {
    let runners: Vec<_> = ids
        .map(|n| serde_json::json!({"runner_id": format!("id{n}"), "runner_name": format!("n{n}"), "status": "new-word"}))
        .collect();
    json(
        &format!("GET /api/v1/runners?limit=200&offset={offset}"),
        200,
        &serde_json::json!({"runners": runners, "total": total}).to_string(),
    )
}

#[tokio::test(start_paused = true)]
async fn b21_a_name_is_found_beyond_the_first_page_and_no_further_page_is_read() {
    let script = Script::of([page(0, 0..200, 450), page(200, 200..400, 450)]);
    let found = client(&script).find_by_name("n321").await.unwrap().unwrap();
    assert_eq!(found.runner_id, "id321");
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b21_records_that_vanish_while_we_page_hide_no_other() {
    // Ten of the first page are deleted before the second is read: the rest moves up by ten.
    let script = Script::of([
        page(0, 0..200, 450),
        page(200, 210..410, 440),
        page(190, 200..400, 440),
        page(390, 400..450, 440),
    ]);
    let all = client(&script).list().await.unwrap();
    let ids: BTreeSet<_> = all.iter().map(|r| r.runner_id.clone()).collect();
    assert_eq!(ids.len(), all.len(), "no record twice");
    assert!((200..450).all(|n| ids.contains(&format!("id{n}"))));
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b22_lists_are_read_leniently() {
    const LIST: &str = "GET /api/v1/runners?limit=200&offset=0";
    let odd = r#"{"runners":[{"runner_id":1},{"runner_id":"a","runner_name":"n","status":"deleted"},
        {"runner_id":"b","runner_name":"n","status":"online","new_field":{}}],"total":3}"#;
    let script = Script::of([json(LIST, 200, odd)]);
    let found = client(&script).find_by_name("n").await.unwrap().unwrap();
    assert_eq!(found.runner_id, "b");
    let script = Script::of([json(LIST, 200, r#"[{"runner_id":"c","runner_name":"n"}]"#)]);
    assert_eq!(client(&script).list().await.unwrap().len(), 1);
    let script = Script::of([json(LIST, 200, r#"{"runners":[],"total":0}"#)]);
    assert_eq!(client(&script).find_by_name("n").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn b43_the_api_description_tells_of_the_extension_only_where_it_is_json() {
    const CALL: &str = "GET /openapi.json";
    let with = r#"{"components":{"schemas":{"JitProvisionRequest":{"properties":{"runner_scale_set_id":{}}}}}}"#;
    let without = r#"{"components":{"schemas":{"JitProvisionRequest":{"properties":{"labels":{}}}}}}"#;
    let older = r#"{"paths":{"/api/v1/runners/provision":{"post":{}}}}"#;
    let newer = r#"{"paths":{"/api/v1/runners/jit":{"post":{}}}}"#;
    for (line, binds, hands_out) in [
        (json(CALL, 200, with), Some(true), None),
        (json(CALL, 200, without), Some(false), None),
        (json(CALL, 200, older), None, Some(true)),
        (json(CALL, 200, newer), None, Some(false)),
        (json(CALL, 200, r#"{"hello":"world"}"#), None, None),
        (html(CALL, 200), None, None),
        (json(CALL, 404, r#"{"detail":"Not Found"}"#), None, None),
    ] {
        let script = Script::of([line]);
        let described = client(&script).description().await;
        assert_eq!(described.binds_to_scale_sets, binds);
        assert_eq!(described.hands_out_registration_tokens, hands_out);
        assert_eq!(script.tokens(), [""], "no token for a page that needs none");
    }
}
