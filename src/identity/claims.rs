//! What a token says of itself. Nothing is verified: the issuer and the peer do that; this only tells when
//! it is worth asking for a new one.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    iat: Option<f64>,
    exp: Option<f64>,
}

/// The `exp` claim, where the token is a JWT that has one.
pub(super) fn expiry(token: &str) -> Option<Timestamp> {
    let seconds = claims(token)?.exp?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and a time out of range is refused next"
    )]
    Timestamp::from_second(seconds as i64).ok()
}

/// From the `iat` claim to `exp`, where the token is a JWT that has both.
pub(super) fn life(token: &str) -> Option<Duration> {
    let claims = claims(token)?;
    Duration::try_from_secs_f64(claims.exp? - claims.iat?).ok()
}

/// What is left until `at`; nothing where that is over.
pub(super) fn left(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&payload).ok()
}

#[cfg(test)]
pub(super) fn jwt(claims: &serde_json::Value) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        part(r#"{"alg":"RS256"}"#),
        part(&claims.to_string()),
        part("signature")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b16_the_expiry_of_a_jwt_is_read_and_anything_else_has_none() {
        let at = |claims| expiry(&jwt(&claims)).map(Timestamp::as_second);
        assert_eq!(at(serde_json::json!({"exp": 1_800_000_000})), Some(1_800_000_000));
        assert_eq!(at(serde_json::json!({"exp": 1_800_000_000.5})), Some(1_800_000_000));
        assert_eq!(at(serde_json::json!({"exp": 1e300})), None);
        assert_eq!(at(serde_json::json!({"sub": "x"})), None);
        for opaque in ["", "opaque", "a.b", "a.b.c", "a.e30.c"] {
            assert_eq!((expiry(opaque), life(opaque)), (None, None), "{opaque}");
        }
        let lives = |claims| life(&jwt(&claims));
        let hour = Some(Duration::from_hours(1));
        assert_eq!(
            lives(serde_json::json!({"iat": 1_800_000_000, "exp": 1_800_003_600})),
            hour
        );
        assert_eq!(lives(serde_json::json!({"iat": 1_800_000_000, "exp": 1})), None);
        assert_eq!(lives(serde_json::json!({"exp": 1_800_003_600})), None);
    }
}
