//! Where the service can be reached: as github.com, and on a socket.

use std::time::Duration;

use gharts_listener::{
    clock::Clock,
    http::Transport as _,
    shutdown::Tasks,
    sim::{
        github::{GitHub, Setup},
        network::Network,
    },
};
use http::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::harness::{PAT, sim};

#[tokio::test(start_paused = true)]
async fn as_github_com_rest_stands_at_the_root_and_the_service_elsewhere() {
    let mut setup = Setup::new("https://github.com", "acme", PAT);
    setup.service_url = "https://pipelines.actions.example".to_owned();
    let github = GitHub::start(
        setup,
        Clock::simulated("2026-03-01T12:00:00Z".parse().unwrap()),
        &Tasks::new(),
    );
    let network = Network::new();
    network.attach("api.github.com", github.router());
    network.attach("pipelines.actions.example", github.router());
    let post = |url: &str, auth: String, body: String| {
        let request = http::Request::post(url).header("authorization", auth).body(body.into());
        network.send(request.unwrap())
    };
    let read = |response: http::Response<bytes::Bytes>| -> serde_json::Value {
        serde_json::from_slice(response.body()).unwrap()
    };
    let url = "https://api.github.com/orgs/acme/actions/runners/registration-token";
    let token = read(post(url, format!("Bearer {PAT}"), String::new()).await.unwrap());
    let body = json!({"url": "https://github.com/acme", "runner_event": "register"}).to_string();
    let auth = format!("RemoteAuth {}", token["token"].as_str().unwrap());
    let url = "https://api.github.com/actions/runner-registration";
    let admin = read(post(url, auth, body).await.unwrap());
    let service = admin["url"].as_str().unwrap();
    assert!(service.starts_with("https://pipelines.actions.example/actions-service/"));
    let auth = format!("Bearer {}", admin["token"].as_str().unwrap());
    let url = format!("{service}_apis/runtime/runnerscalesets?api-version=6.0-preview");
    let made = post(&url, auth, json!({"name": "linux"}).to_string()).await.unwrap();
    assert_eq!(made.status(), StatusCode::OK);
    assert_eq!(github.sets().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn unknown_paths_answer_404_with_githubs_headers() {
    let sim = sim(|_| ());
    let reply = sim.call("GET", "http://github.test/api/v3/zen", "Bearer x", None).await;
    assert!(reply.headers.contains_key("x-github-request-id"));
    reply.expect(StatusCode::NOT_FOUND);
}

/// On sockets a client that goes away must end its poll, or its old capacity would go on assigning.
#[tokio::test]
async fn a_poll_whose_connection_breaks_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    let github = GitHub::start(
        Setup::new(&format!("http://{address}"), "acme", PAT),
        Clock::system(),
        &tasks,
    );
    let router = github.router();
    tasks.spawn("serve", async move { axum::serve(listener, router).await });

    // The session is opened in process, by the same addresses; only the poll goes over the socket.
    let network = Network::new();
    network.attach(&address.to_string(), github.router());
    let send = async |method: &str, url: String, auth: String, body: String| -> serde_json::Value {
        let request = http::Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", auth);
        let response = network.send(request.body(body.into()).unwrap()).await.unwrap();
        let raw = response.body();
        serde_json::from_slice(raw.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(raw)).unwrap()
    };
    let api = format!("http://{address}/api/v3");
    let url = format!("{api}/orgs/acme/actions/runners/registration-token");
    let token = send("POST", url, format!("Bearer {PAT}"), String::new()).await;
    let auth = format!("RemoteAuth {}", token["token"].as_str().unwrap());
    let body = json!({"url": format!("http://{address}/acme"), "runner_event": "register"}).to_string();
    let admin = send("POST", format!("{api}/actions/runner-registration"), auth, body).await;
    let auth = format!("Bearer {}", admin["token"].as_str().unwrap());
    let sets = format!("{}_apis/runtime/runnerscalesets", admin["url"].as_str().unwrap());
    let set = send("POST", sets.clone(), auth.clone(), json!({"name": "linux"}).to_string()).await;
    let url = format!("{sets}/{}/sessions", set["id"]);
    let session = send("POST", url, auth, json!({"ownerName": "me"}).to_string()).await;

    let polling = |wanted: bool| github.until(move |g| g.set("linux").is_some_and(|s| s.polling == wanted));
    let mut socket = TcpStream::connect(address).await.unwrap();
    let target = session["messageQueueUrl"]
        .as_str()
        .unwrap()
        .split_once(&address.to_string())
        .unwrap()
        .1;
    let token = session["messageQueueAccessToken"].as_str().unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), polling(true))
        .await
        .unwrap();
    drop(socket);
    tokio::time::timeout(Duration::from_secs(20), polling(false))
        .await
        .unwrap();

    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    tasks.stop();
}
