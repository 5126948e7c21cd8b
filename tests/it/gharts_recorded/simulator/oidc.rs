//! The provider's token endpoint: three styles of authentication, errors, and a life by our clock.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use gharts_listener::{
    http::Transport,
    sim::{
        gharts::{Flavour, Gharts, JwksSource, Setup, TeamSpec, TrustedIssuer, UserSpec},
        oidc::{AuthStyle, Client, Oidc},
    },
};
use serde_json::{Value, json};

use super::world::{AUDIENCE, ISSUER, World, subject};

async fn ask(world: &World, style: AuthStyle, secret: &str, grant: &str) -> (u16, Value) {
    let request = http::Request::post(world.oidc.token_url());
    let form = format!("grant_type={grant}&audience={}", AUDIENCE.replace('/', "%2F"));
    let request = match style {
        AuthStyle::Body => request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!(
                "{form}&client_id=arc&client_secret={}",
                secret.replace('&', "%26")
            )),
        AuthStyle::Basic => {
            let pair = STANDARD.encode(format!("arc:{}", secret.replace('&', "%26")));
            request
                .header("content-type", "application/x-www-form-urlencoded")
                .header("authorization", format!("Basic {pair}"))
                .body(form)
        }
        AuthStyle::Json => request.header("content-type", "application/json").body(
            json!({ "grant_type": grant, "client_id": "arc", "client_secret": secret, "audience": AUDIENCE })
                .to_string(),
        ),
    };
    let response = world.network.send(request.unwrap().map(Bytes::from)).await.unwrap();
    (
        response.status().as_u16(),
        serde_json::from_slice(response.body()).unwrap(),
    )
}

#[tokio::test(start_paused = true)]
async fn b16_every_style_gets_a_token_that_gharts_takes_until_it_ends() {
    let world = World::new(Flavour::SetAware);
    let team = world.gharts.add_team(TeamSpec::open("machines"));
    world.gharts.register_client("arc", &team);
    world.oidc.register(Client::machine("arc", "s&cret"));
    world.oidc.set_ttl(Duration::from_secs(600));
    for style in [AuthStyle::Body, AuthStyle::Basic, AuthStyle::Json] {
        let (status, answer) = ask(&world, style, "s&cret", "client_credentials").await;
        assert_eq!((status, &answer["expires_in"]), (200, &json!(600)), "{style:?}");
        let token = answer["access_token"].as_str().unwrap();
        let me = world.call("GET", "/api/v1/auth/me", token).await.json();
        assert_eq!(me["teams"], json!([{ "id": team, "name": "machines" }]), "{style:?}");
        tokio::time::advance(Duration::from_secs(601)).await;
        assert_eq!(
            world.call("GET", "/api/v1/auth/me", token).await.status,
            401,
            "{style:?}"
        );
    }
    assert_eq!(world.oidc.tokens_issued(), 3);
}

#[tokio::test(start_paused = true)]
async fn wrong_secrets_styles_and_grants_are_refused() {
    let world = World::new(Flavour::SetAware);
    world.oidc.register(Client {
        styles: vec![AuthStyle::Basic],
        ..Client::machine("arc", "secret")
    });
    let refused = async |style, secret, grant| {
        let (status, answer) = ask(&world, style, secret, grant).await;
        (status, answer["error"].as_str().unwrap().to_owned())
    };
    let invalid = (401, "invalid_client".to_owned());
    assert_eq!(refused(AuthStyle::Basic, "wrong", "client_credentials").await, invalid);
    assert_eq!(refused(AuthStyle::Body, "secret", "client_credentials").await, invalid);
    assert_eq!(
        refused(AuthStyle::Basic, "secret", "password").await,
        (400, "unsupported_grant_type".to_owned())
    );
    assert_eq!(world.oidc.tokens_refused(), 3);
    assert_eq!(
        ask(&world, AuthStyle::Basic, "secret", "client_credentials").await.0,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn discovery_names_endpoints_that_answer() {
    let world = World::new(Flavour::SetAware);
    let get = async |url: String| {
        let request = http::Request::get(url).body(Bytes::new()).unwrap();
        serde_json::from_slice::<Value>(world.network.send(request).await.unwrap().body()).unwrap()
    };
    let found = get("http://127.0.0.1:18082/.well-known/openid-configuration".to_owned()).await;
    assert_eq!(found["issuer"], world.oidc.issuer());
    assert_eq!(found["token_endpoint"], world.oidc.token_url());
    let jwks = get(found["jwks_uri"].as_str().unwrap().to_owned()).await;
    assert_eq!(jwks["keys"][0]["kid"], world.oidc.kid());
}

#[tokio::test(start_paused = true)]
async fn several_issuers_can_be_trusted_and_their_keys_are_read_for_every_request() {
    let world = World::new(Flavour::SetAware);
    let other = Oidc::new("https://kubernetes.default.svc", 8, world.clock.clone()).unwrap();
    let keys = other.clone();
    let gharts = Gharts::new(Setup {
        issuers: vec![
            TrustedIssuer {
                issuer: ISSUER.to_owned(),
                jwks: JwksSource::Url(world.oidc.jwks_url()),
            },
            TrustedIssuer {
                issuer: other.issuer().to_owned(),
                jwks: JwksSource::Fixed(Arc::new(move || keys.jwks())),
            },
        ],
        ..world.setup(Flavour::SetAware)
    });
    world.network.attach("gharts.example.com", gharts.router());
    gharts.add_user(UserSpec::subject(&subject("listener")));
    let claims = json!({ "aud": AUDIENCE, "sub": subject("listener") });
    let foreign = other.issue(claims.as_object().unwrap()).unwrap();
    for token in [&foreign, &world.token("listener"), &foreign, &world.token("listener")] {
        assert_eq!(world.call("GET", "/api/v1/runners", token).await.status, 200);
    }
    assert_eq!(world.oidc.jwks_served(), 2);
    other.rotate(false).unwrap();
    assert_eq!(world.call("GET", "/api/v1/runners", &foreign).await.status, 401);
}
