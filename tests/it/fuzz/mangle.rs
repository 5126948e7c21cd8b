//! Answers that no peer should give: right ones, damaged at random.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use gharts_listener::http::{Request, Response, SharedTransport, Transport, TransportError};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

/// Looks like a credential of GitHub's: it must not come back in any error's words.
pub const SECRET: &str = "ghp_0123456789abcdefghijABCDEFGHIJ012345";

const STATUSES: [u16; 24] = [
    100, 200, 200, 200, 201, 202, 204, 206, 301, 302, 400, 401, 403, 404, 408, 409, 410, 413, 422, 429, 500, 502, 503,
    599,
];

/// Any value that JSON can hold, with a liking for the ends of the types.
pub fn wild(rng: &mut fastrand::Rng) -> Value {
    match rng.u8(..20) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(0),
        4 => json!(i64::MAX),
        5 => json!(i64::MIN),
        6 => json!(u64::MAX),
        7 => json!(1.0e308),
        8 => json!(-0.0001),
        9 => json!(""),
        10 => json!("\u{0}\u{1b}[2J\u{202e}\u{feff}"),
        11 => json!("x".repeat(rng.usize(..100_000))),
        12 => json!(format!("token {SECRET} and Bearer {SECRET}")),
        13 => json!([]),
        14 => json!({}),
        15 => json!("99999999999999999999999999"),
        16 => json!("9999-12-31T23:59:59.999999999Z"),
        17 => json!("-9999-01-01T00:00:00Z"),
        18 => json!([{"message": SECRET}, null, 3]),
        _ => json!("https://\u{0}@[::1]:99999/../?#"),
    }
}

/// A place in a document, at random.
fn somewhere<'a>(rng: &mut fastrand::Rng, value: &'a mut Value) -> &'a mut Value {
    let size = match value {
        Value::Object(map) => map.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if size == 0 || rng.u8(..4) == 0 {
        return value;
    }
    let at = rng.usize(..size);
    let inner = match value {
        Value::Object(map) => map.values_mut().nth(at).unwrap(),
        Value::Array(items) => &mut items[at],
        _ => unreachable!("what has no size is returned above"),
    };
    somewhere(rng, inner)
}

fn nested(depth: usize) -> Vec<u8> {
    [b"{\"value\":[".repeat(depth), b"]}".repeat(depth)].concat()
}

/// The same document, damaged.
pub fn mangle_json(rng: &mut fastrand::Rng, mut document: Value) -> Value {
    for _ in 0..rng.usize(1..4) {
        let value = wild(rng);
        let place = somewhere(rng, &mut document);
        match (rng.u8(..4), place) {
            (0, Value::Object(map)) => {
                let key = map.keys().nth(rng.usize(..map.len().max(1))).cloned();
                key.map(|key| map.remove(&key));
            }
            (1, Value::Array(items)) => items.push(value),
            (_, place) => *place = value,
        }
    }
    document
}

/// The same bytes, damaged.
pub fn mangle(rng: &mut fastrand::Rng, body: &[u8]) -> Vec<u8> {
    match rng.u8(..10) {
        0 => Vec::new(),
        1 => [b"\xef\xbb\xbf", body].concat(),
        2 => body[..rng.usize(..=body.len())].to_vec(),
        3 => (0..rng.usize(..2000)).map(|_| rng.u8(..)).collect(),
        4 => nested(rng.usize(..20_000)),
        5 => {
            let mut body = body.to_vec();
            for _ in 0..rng.usize(..16).min(body.len()) {
                let at = rng.usize(..body.len());
                body[at] ^= 1 << rng.u8(..8);
            }
            body
        }
        _ => match serde_json::from_slice(body) {
            Ok(document) => mangle_json(rng, document).to_string().into_bytes(),
            Err(_) => wild(rng).to_string().into_bytes(),
        },
    }
}

fn header(rng: &mut fastrand::Rng) -> (HeaderName, HeaderValue) {
    let names = [
        "retry-after",
        "date",
        "x-ratelimit-reset",
        "x-ratelimit-remaining",
        "x-github-request-id",
        "content-type",
        "location",
    ];
    let values: [&[u8]; 9] = [
        b"",
        b"-1",
        b"99999999999999999999999",
        b"1e9",
        b"Fri, 31 Dec 9999 23:59:59 GMT",
        b"Thu, 01 Jan 1970 00:00:00 GMT",
        b"\xff\xfe",
        b"text/html",
        SECRET.as_bytes(),
    ];
    let name = HeaderName::from_static(rng.choice(names).unwrap());
    (name, HeaderValue::from_bytes(rng.choice(values).unwrap()).unwrap())
}

/// A way to the peers on which some answers are damaged.
#[derive(Clone)]
pub struct Mangled {
    inner: SharedTransport,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: fastrand::Rng,
    /// Of a hundred answers, so many are damaged.
    percent: u8,
}

impl fmt::Debug for Mangled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mangled").finish_non_exhaustive()
    }
}

impl Mangled {
    pub fn new(inner: SharedTransport, seed: u64, percent: u8) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self {
            inner,
            state: Arc::new(Mutex::new(State { rng, percent })),
        }
    }

    /// From now on answers arrive as they were sent.
    pub fn heal(&self) {
        self.state.lock().unwrap().percent = 0;
    }

    fn damage(&self, answer: Response) -> Response {
        let mut state = self.state.lock().unwrap();
        let State { rng, percent } = &mut *state;
        if rng.u8(..100) >= *percent {
            return answer;
        }
        let (mut parts, body) = answer.into_parts();
        if rng.u8(..4) == 0 {
            parts.status = StatusCode::from_u16(rng.choice(STATUSES).unwrap()).unwrap();
        }
        if rng.u8(..3) == 0 {
            let (name, value) = header(rng);
            parts.headers.insert(name, value);
        }
        let body = match rng.u8(..4) {
            0 => body,
            _ => Bytes::from(mangle(rng, &body)),
        };
        Response::from_parts(parts, body)
    }
}

impl Transport for Mangled {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move { Ok(self.damage(self.inner.send(request).await?)) })
    }
}
