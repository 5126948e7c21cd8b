//! Three hops to the admin connection, and what refuses on the way.

use gharts_listener::sim::{
    github::{App, Pat},
    keys::SigningKey,
};
use http::StatusCode;
use serde_json::{Value, json};

use super::harness::{API, BASE, PAT, Sim, decode, secs, sim};

fn app_sim() -> (Sim, SigningKey) {
    let key = SigningKey::shared("app").unwrap();
    let sim = sim(|setup| {
        setup.scopes = ["acme", "acme/web", "enterprises/corp"].map(str::to_owned).into();
        setup.apps.push(App {
            client_id: "Iv1.abc".to_owned(),
            app_id: 42,
            installation_id: 9,
            public_pem: key.public_pem().to_owned(),
        });
        setup.pats.push(Pat {
            token: "ghp_none".to_owned(),
            manages_runners: false,
            only_in: None,
        });
    });
    (sim, key)
}

async fn exchange(sim: &Sim, key: &SigningKey, issuer: Value, issued: i64, expires: i64) -> super::harness::Reply {
    let now = sim.clock.now().as_second();
    let claims = json!({"iss": issuer, "iat": now + issued, "exp": now + expires});
    let auth = format!("Bearer {}", key.sign(&claims).unwrap());
    sim.call("POST", &format!("{API}/app/installations/9/access_tokens"), &auth, None)
        .await
}

#[tokio::test(start_paused = true)]
async fn b24_an_app_exchanges_its_jwt_by_client_id_or_app_id() {
    let (sim, key) = app_sim();
    for issuer in [json!("Iv1.abc"), json!("42"), json!(42)] {
        let reply = exchange(&sim, &key, issuer, -60, 480).await;
        assert!(reply.headers.contains_key("x-github-request-id"));
        let body = reply.expect(StatusCode::CREATED);
        assert!(body["token"].as_str().unwrap().starts_with("ghs_"));
        assert_eq!(body["expires_at"], "2026-03-01T13:00:00Z");
        let auth = format!("Bearer {}", body["token"].as_str().unwrap());
        let url = format!("{API}/orgs/acme/actions/runners/registration-token");
        let reply = sim.call("POST", &url, &auth, None).await;
        assert_eq!(reply.headers["x-ratelimit-remaining"], "14999");
        assert_eq!(reply.headers["x-ratelimit-resource"], "core");
        assert!(reply.expect(StatusCode::CREATED)["expires_at"].is_string());
        sim.github.revoke_installation_tokens();
        assert_eq!(sim.call("POST", &url, &auth, None).await.status, 401);
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_app_jwts_answer_401_in_githubs_form() {
    let (sim, key) = app_sim();
    let stranger = SigningKey::shared("other").unwrap();
    let id = || json!("Iv1.abc");
    for (what, reply) in [
        ("issuer", exchange(&sim, &key, json!("Iv1.zzz"), -60, 480).await),
        ("expired", exchange(&sim, &key, id(), -600, -1).await),
        ("too long", exchange(&sim, &key, id(), -60, 601).await),
        ("issued in the future", exchange(&sim, &key, id(), 120, 480).await),
        ("key", exchange(&sim, &stranger, id(), -60, 480).await),
    ] {
        let body = reply.expect(StatusCode::UNAUTHORIZED);
        assert!(body["message"].is_string(), "{what}");
        assert!(body["documentation_url"].is_string(), "{what}");
    }
    let url = format!("{API}/app/installations/10/access_tokens");
    let now = sim.clock.now().as_second();
    let jwt = key
        .sign(&json!({"iss": "Iv1.abc", "iat": now, "exp": now + 60}))
        .unwrap();
    let reply = sim.call("POST", &url, &format!("Bearer {jwt}"), None).await;
    assert_eq!(reply.status, 404);
}

#[tokio::test(start_paused = true)]
async fn registration_tokens_exist_for_each_kind_of_scope_and_are_refused_variously() {
    let (sim, _) = app_sim();
    for (path, token, status) in [
        ("orgs/acme", PAT, 201),
        ("repos/acme/web", PAT, 201),
        ("enterprises/corp", PAT, 201),
        ("orgs/nobody", PAT, 404),
        ("orgs/acme", "ghp_none", 403),
        ("orgs/acme", "ghp_wrong", 401),
    ] {
        for root in [API, BASE] {
            let url = format!("{root}/{path}/actions/runners/registration-token");
            let reply = sim.call("POST", &url, &format!("Bearer {token}"), None).await;
            assert_eq!(reply.status, status, "{url} {token}");
            assert!(status == 201 || reply.body["message"].is_string());
        }
    }
    let url = format!("{API}/orgs/acme/actions/runners/registration-token");
    let auth = "Bearer ghp_none";
    sim.github.put_pat(Pat {
        token: "ghp_none".to_owned(),
        manages_runners: true,
        only_in: None,
    });
    assert_eq!(sim.call("POST", &url, auth, None).await.status, 201);
    sim.github.remove_pat("ghp_none");
    assert_eq!(sim.call("POST", &url, auth, None).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn the_admin_connection_names_the_service_and_dies_by_its_exp_claim() {
    let sim = sim(|s| s.settings.admin_token_ttl = secs(600));
    let admin = sim.admin().await;
    assert!(
        admin.url.starts_with("http://github.test/actions-service/"),
        "{}",
        admin.url
    );
    assert!(admin.url.ends_with('/'));
    let claims = admin.auth.split('.').nth(1).unwrap();
    let padded = claims.replace('-', "+").replace('_', "/") + &"=".repeat((4 - claims.len() % 4) % 4);
    assert_eq!(decode(&padded)["exp"], sim.clock.now().as_second() + 600);
    admin.create_set("linux").await;
    tokio::time::sleep(secs(601)).await;
    let reply = admin.call("GET", "runtime/runnerscalesets", None).await;
    assert!(reply.headers.contains_key("activityid"));
    assert!(reply.headers.contains_key("x-github-request-id"));
    reply.refused(401, "VssUnauthorizedException");

    let admin = sim.admin().await;
    sim.github.revoke_admin_tokens();
    let reply = admin.call("GET", "runtime/runnerscalesets", None).await;
    reply.refused(401, "VssUnauthorizedException");
}

#[tokio::test(start_paused = true)]
async fn a_registration_token_opens_its_own_scope_only_and_not_before_it_has_spread() {
    let sim = sim(|s| {
        s.scopes.push("other".to_owned());
        s.settings.registration_token_delay = secs(3);
    });
    let token = format!("RemoteAuth {}", sim.registration_token().await);
    let url = format!("{API}/actions/runner-registration");
    let body = |scope: &str| Some(json!({"url": format!("{BASE}/{scope}"), "runner_event": "register"}));
    assert_eq!(sim.call("POST", &url, &token, body("acme")).await.status, 401);
    tokio::time::sleep(secs(3)).await;
    assert_eq!(sim.call("POST", &url, &token, body("other")).await.status, 404);
    assert_eq!(sim.call("POST", &url, &token, body("acme")).await.status, 200);
    assert_eq!(
        sim.call("POST", &url, "RemoteAuth AAAA", body("acme")).await.status,
        401
    );
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(sim.call("POST", &url, &token, body("acme")).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn the_rest_budget_is_spent_and_comes_back() {
    let sim = sim(|s| s.settings.rest_limit = 2);
    let url = format!("{API}/orgs/acme/actions/runners");
    let auth = format!("Bearer {PAT}");
    for _ in 0..2 {
        assert_eq!(sim.call("GET", &url, &auth, None).await.status, 200);
    }
    let reply = sim.call("GET", &url, &auth, None).await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.headers["x-ratelimit-remaining"], "0");
    assert!(reply.body["message"].as_str().unwrap().contains("rate limit exceeded"));
    tokio::time::sleep(secs(3600)).await;
    assert_eq!(sim.call("GET", &url, &auth, None).await.status, 200);
}
