//! The same routers on real sockets, byte for byte.

use gharts_listener::{
    shutdown::Tasks,
    sim::gharts::{Fault, Flavour, Operation, TeamSpec},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::world::World;

/// One request on a connection of its own; everything that came back.
async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A connection that breaks is what one of the faults is about.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn the_service_answers_on_sockets_with_the_recorded_headers_and_can_break_a_connection() {
    let world = World::new(Flavour::SetAware);
    let team = world.gharts.add_team(TeamSpec::open("backend"));
    let user = world.user("listener");
    world.gharts.add_member(&team, &user);
    let token = world.token("listener");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new();
    let (router, stop) = (world.gharts.router(), tasks.token().clone().cancelled_owned());
    tasks.spawn("server", async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(stop)
            .await
            .unwrap();
    });

    let ask =
        |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{more}\r\n");
    let refused = exchange(address, &ask("/api/v1/auth/me", "")).await.to_lowercase();
    assert!(refused.starts_with("http/1.1 401 unauthorized\r\n"), "{refused}");
    assert!(refused.contains("\r\nwww-authenticate: bearer\r\n"), "{refused}");
    assert_eq!(refused.matches("\r\ndate: ").count(), 1, "{refused}");
    assert!(refused.ends_with(r#"{"detail":"not authenticated"}"#), "{refused}");

    let redirected = exchange(address, &ask("/api/v1/runners/", "")).await;
    assert!(
        redirected.contains(&format!("location: http://{address}/api/v1/runners\r\n")),
        "{redirected}"
    );

    world.gharts.inject(Operation::Jit, Fault::AnswerLost);
    let body = r#"{"runner_name":"r-1"}"#;
    let jit = format!(
        "POST /api/v1/runners/jit HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let broken = exchange(address, &jit).await;
    assert!(!broken.contains("runner_id"), "{broken}");
    assert!(
        !broken.ends_with("\r\n0\r\n\r\n"),
        "the body must not look whole: {broken}"
    );
    assert_eq!(world.gharts.records()[0].name, "r-1");

    tasks.stop();
    tasks.finished().await;
}
