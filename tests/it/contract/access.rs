//! Who calls and what they may: tokens, roles, the issuer.

use super::*;

pub(super) async fn rights_are_by_role(c: Cluster) {
    c.account("listener").await;
    let user = c.user(&c.token("listener").await);
    let ns = c.namespace.clone();
    let who = format!("User \"system:serviceaccount:{ns}:listener\"");
    let ask = async |method: Method, path: &str, body: Option<&Value>| {
        call(&user, method, path, "application/json", body).await
    };
    let pods = c.path("pods");
    for (path, message) in [
        (
            pods.clone(),
            format!(
                "pods is forbidden: {who} cannot list resource \"pods\" in API group \"\" in the namespace \"{ns}\""
            ),
        ),
        (
            format!("{pods}?watch=true"),
            format!(
                "pods is forbidden: {who} cannot watch resource \"pods\" in API group \"\" in the namespace \"{ns}\""
            ),
        ),
        (
            format!("{pods}/x"),
            format!(
                "pods \"x\" is forbidden: {who} cannot get resource \"pods\" in API group \"\" in the namespace \"{ns}\""
            ),
        ),
        (
            format!("{pods}/x/log"),
            format!(
                "pods \"x\" is forbidden: {who} cannot get resource \"pods/log\" in API group \"\" in the namespace \"{ns}\""
            ),
        ),
        (
            "/api/v1/pods".to_owned(),
            format!("pods is forbidden: {who} cannot list resource \"pods\" in API group \"\" at the cluster scope"),
        ),
        (
            "/api/v1/nodes".to_owned(),
            format!("nodes is forbidden: {who} cannot list resource \"nodes\" in API group \"\" at the cluster scope"),
        ),
        (
            format!("/api/v1/namespaces/{ns}"),
            format!(
                "namespaces \"{ns}\" is forbidden: {who} cannot get resource \"namespaces\" in API group \"\" in the namespace \"{ns}\""
            ),
        ),
        (
            c.group_path("coordination.k8s.io", "leases/l1"),
            format!(
                "leases.coordination.k8s.io \"l1\" is forbidden: {who} cannot get resource \"leases\" in API group \"coordination.k8s.io\" in the namespace \"{ns}\""
            ),
        ),
    ] {
        ask(Method::GET, &path, None).await.refused(403, "Forbidden", &message);
    }
    let message =
        format!("pods is forbidden: {who} cannot create resource \"pods\" in API group \"\" in the namespace \"{ns}\"");
    ask(Method::POST, &pods, Some(&pod("p1")))
        .await
        .refused(403, "Forbidden", &message);

    c.grant(
        "listener",
        &json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
        ]),
    )
    .await;
    c.eventually("the role counts", async || {
        ask(Method::GET, &pods, None).await.code == 200
    })
    .await;
    ask(Method::POST, &pods, Some(&pod("p1"))).await.is(201);
    ask(Method::PUT, &format!("{pods}/p1"), Some(&pod("p1")))
        .await
        .refused_like(403, "Forbidden", "cannot update resource");
    ask(Method::DELETE, &pods, None)
        .await
        .refused_like(403, "Forbidden", "cannot deletecollection resource");
    ask(Method::GET, &format!("{pods}/p1/log"), None).await.refused_like(
        403,
        "Forbidden",
        "cannot get resource \"pods/log\"",
    );
    ask(Method::GET, &c.path("secrets"), None)
        .await
        .refused_like(403, "Forbidden", "cannot list resource \"secrets\"");
    ask(Method::GET, &format!("/api/v1/namespaces/{ns}"), None)
        .await
        .is(200);
    let reply = ask(Method::GET, "/api/v1/namespaces/default", None).await;
    reply.refused_like(
        403,
        "Forbidden",
        "cannot get resource \"namespaces\" in API group \"\" in the namespace \"default\"",
    );
    ask(Method::GET, "/nowhere", None).await.refused(
        403,
        "Forbidden",
        &format!("forbidden: {who} cannot get path \"/nowhere\""),
    );
}

pub(super) async fn rights_may_name_objects(c: Cluster) {
    c.account("picky").await;
    c.grant("picky", &json!([
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["picky"], "verbs": ["create"]},
    ]))
    .await;
    let user = c.user(&c.token("picky").await);
    let get = async |path: &str| call(&user, Method::GET, path, "", None).await.code;
    c.eventually("the role counts", async || get(&c.path("secrets/mine")).await == 404)
        .await;
    assert_eq!(get(&c.path("secrets/other")).await, 403);
    assert_eq!(get(&c.path("secrets")).await, 403);
    assert_eq!(get(&c.path("secrets?fieldSelector=metadata.name%3Dmine")).await, 200);
    let request = token_request(&json!({"audiences": ["x"]}));
    for (account, code) in [("picky", 201), ("other", 403)] {
        let path = c.path(&format!("serviceaccounts/{account}/token"));
        call(&user, Method::POST, &path, "application/json", Some(&request))
            .await
            .is(code);
    }
}

pub(super) async fn a_bad_token_is_nobody(c: Cluster) {
    let reply = call(&c.user("wrong"), Method::GET, &c.path("pods"), "", None).await;
    reply.refused(401, "Unauthorized", "Unauthorized");
    let reply = call(&c.user(""), Method::GET, "/api/v1/nodes", "", None).await;
    let message = "nodes is forbidden: User \"system:anonymous\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
    reply.refused(403, "Forbidden", message);
    // A token for somebody else is no token here.
    c.account("listener").await;
    let request = token_request(&json!({"audiences": ["https://elsewhere"]}));
    let reply = c.post(&c.path("serviceaccounts/listener/token"), &request).await;
    let token = reply.is(201).json["status"]["token"].as_str().unwrap();
    call(&c.user(token), Method::GET, &c.path("pods"), "", None)
        .await
        .is(401);
}

pub(super) async fn tokens_are_requested(c: Cluster) {
    c.account("listener").await;
    let path = c.path("serviceaccounts/listener/token");
    let short = token_request(&json!({"audiences": ["a"], "expirationSeconds": 60}));
    let message = "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 60: may \
        not specify a duration less than 10 minutes";
    c.post(&path, &short)
        .await
        .refused(422, "Invalid", message)
        .causes(&[("FieldValueInvalid", "spec.expirationSeconds")]);
    let request = token_request(&json!({"audiences": ["https://gharts.example.com"], "expirationSeconds": 3600}));
    let message = "serviceaccounts \"nope\" not found";
    c.post(&c.path("serviceaccounts/nope/token"), &request)
        .await
        .refused(404, "NotFound", message);
    let reply = c.post(&path, &request).await;
    reply.is(201);
    let expires: jiff::Timestamp = reply.json["status"]["expirationTimestamp"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let token = reply.json["status"]["token"].as_str().unwrap();
    let claims = claims(token);
    let account = c.get(&c.path("serviceaccounts/listener")).await.json;
    let mut keys: Vec<&str> = claims.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["aud", "exp", "iat", "iss", "jti", "kubernetes.io", "nbf", "sub"]);
    assert_eq!(claims["aud"], json!(["https://gharts.example.com"]));
    assert_eq!(claims["exp"].as_i64().unwrap(), expires.as_second());
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    assert_eq!(claims["nbf"], claims["iat"]);
    assert_eq!(claims["iss"], "https://kubernetes.default.svc");
    assert_eq!(claims["sub"], format!("system:serviceaccount:{}:listener", c.namespace));
    let expected =
        json!({"namespace": c.namespace, "serviceaccount": {"name": "listener", "uid": account["metadata"]["uid"]}});
    assert_eq!(claims["kubernetes.io"], expected);
    // Who checks it finds the key that signed it.
    let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_value(c.get("/openid/v1/jwks").await.json).unwrap();
    let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(jwks.find(&kid).unwrap()).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
    rules.validate_exp = false;
    rules.set_audience(&["https://gharts.example.com"]);
    jsonwebtoken::decode::<Value>(token, &key, &rules).unwrap();
}

fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let body = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap()
}

pub(super) async fn everybody_may_ask_what_they_may(c: Cluster) {
    c.account("listener").await;
    c.grant(
        "listener",
        &json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
    )
    .await;
    let user = c.user(&c.token("listener").await);
    let ask = async |client: &kube::Client, verb: &str| {
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"namespace": c.namespace, "verb": verb, "resource": "pods"}}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let reply = call(client, Method::POST, path, "application/json", Some(&body)).await;
        reply.is(201).json["status"]["allowed"] == true
    };
    c.eventually("the role counts", async || ask(&user, "get").await).await;
    assert!(!ask(&user, "delete").await);
    assert!(ask(&c.admin, "delete").await);
}

pub(super) async fn discovery_of_the_issuer_needs_a_token(c: Cluster) {
    c.account("reader").await;
    let users = [c.user(""), c.user(&c.token("reader").await)];
    for path in ["/openid/v1/jwks", "/.well-known/openid-configuration"] {
        let message = format!("forbidden: User \"system:anonymous\" cannot get path \"{path}\"");
        call(&users[0], Method::GET, path, "", None)
            .await
            .refused(403, "Forbidden", &message);
        call(&users[1], Method::GET, path, "", None).await.is(200);
    }
    let discovery = c.get("/.well-known/openid-configuration").await;
    assert_eq!(discovery.json["issuer"], "https://kubernetes.default.svc");
    assert!(
        discovery.json["jwks_uri"]
            .as_str()
            .unwrap()
            .ends_with("/openid/v1/jwks")
    );
    assert_eq!(c.get("/openid/v1/jwks").await.json["keys"][0]["alg"], "RS256");
    call(&users[0], Method::GET, "/version", "", None).await.is(200);
    call(&users[0], Method::GET, "/readyz", "", None).await.is(200);
}
