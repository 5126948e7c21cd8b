//! A GHARTS that follows a script: each call must be the next one of it, and gets the answer written there.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use serde_json::Value;

use super::Client;
use crate::{
    clock::Clock,
    http::{Request, Response, Transport, TransportError},
    identity::{Cached, Token, TokenError, TokenSource},
};

/// One call that must come and what it gets.
pub(crate) struct Line {
    call: String,
    outcome: Result<Response, TransportError>,
    takes: Duration,
}

#[derive(Default)]
pub(crate) struct Script {
    lines: Mutex<VecDeque<Line>>,
    seen: Mutex<Vec<Request>>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Script")
    }
}

impl Script {
    pub(crate) fn of(lines: impl IntoIterator<Item = Line>) -> Arc<Self> {
        Arc::new(Self {
            lines: Mutex::new(lines.into_iter().collect()),
            seen: Mutex::default(),
        })
    }

    /// Adds to the script.
    pub(crate) fn then(&self, lines: impl IntoIterator<Item = Line>) {
        self.lines.lock().unwrap().extend(lines);
    }

    pub(crate) fn assert_finished(&self) {
        let left: Vec<_> = self.lines.lock().unwrap().iter().map(|l| l.call.clone()).collect();
        assert!(left.is_empty(), "calls that never came: {left:?}");
    }

    /// Tokens of the calls so far, in order.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let token = |r: &Request| r.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        seen.iter()
            .map(|r| token(r).map_or_else(String::new, |t| t.replace("Bearer ", "")))
            .collect()
    }

    /// JSON bodies of the calls so far; null where there was none.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .map(|r| serde_json::from_slice(r.body()).unwrap_or(Value::Null))
            .collect()
    }
}

impl Transport for Script {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let path = request.uri().path_and_query().unwrap().as_str();
        let call = format!("{} {path}", request.method());
        self.seen.lock().unwrap().push(request);
        let line = self.lines.lock().unwrap().pop_front();
        let line = line.unwrap_or_else(|| panic!("unexpected call: {call}"));
        assert_eq!(call, line.call);
        Box::pin(async move {
            tokio::time::sleep(line.takes).await;
            line.outcome
        })
    }
}

/// `call` is answered with JSON.
pub(crate) fn json(call: &str, status: u16, body: &str) -> Line {
    answer(call, status, &[("content-type", "application/json")], body)
}

/// `call` is answered with a web page.
pub(crate) fn html(call: &str, status: u16) -> Line {
    answer(call, status, &[("content-type", "text/html")], "<!doctype html>")
}

pub(crate) fn answer(call: &str, status: u16, headers: &[(&str, &str)], body: &str) -> Line {
    let mut builder = http::Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    Line {
        call: call.to_owned(),
        outcome: Ok(builder.body(body.to_owned().into()).unwrap()),
        takes: Duration::ZERO,
    }
}

/// `call` is never answered: connection refused, or lost.
pub(crate) fn fails(call: &str, error: TransportError) -> Line {
    Line {
        call: call.to_owned(),
        outcome: Err(error),
        takes: Duration::ZERO,
    }
}

/// `call` takes its time.
pub(crate) fn slow(line: Line, takes: Duration) -> Line {
    Line { takes, ..line }
}

/// Hands out t0, t1, t2, ...
#[derive(Debug, Default)]
pub(crate) struct Numbered(AtomicU32);

impl TokenSource for Numbered {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        let n = self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            Ok(Token {
                secret: format!("t{n}").into(),
                life: None,
            })
        })
    }

    fn describe(&self) -> String {
        "numbered tokens".into()
    }
}

pub(crate) fn clock() -> Clock {
    Clock::simulated("2026-11-23T04:00:00Z".parse().unwrap())
}

pub(crate) fn client(script: &Arc<Script>) -> Client {
    client_with(script, Arc::new(Numbered::default()))
}

pub(crate) fn client_with(script: &Arc<Script>, tokens: Arc<dyn TokenSource>) -> Client {
    Client::new(
        script.clone(),
        clock(),
        &"https://gharts.example.com/".parse().unwrap(),
        Arc::new(Cached::new(tokens, clock())),
        Duration::from_secs(45),
    )
}
