//! What a token says of itself. Nothing is verified: the issuer and the peer do that; this only tells when
//! it is worth asking for a new one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
}

/// The `exp` claim, where the token is a JWT that has one.
pub(super) fn expiry(token: &str) -> Option<Timestamp> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let seconds = serde_json::from_slice::<Claims>(&payload).ok()?.exp?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and a time out of range is refused next"
    )]
    Timestamp::from_second(seconds as i64).ok()
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
            assert_eq!(expiry(opaque), None, "{opaque}");
        }
    }
}
