//! RSA keys of the simulated issuers: sign JWTs, publish a JWKS.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{Engine as _, engine::general_purpose};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// One RS256 signing key. Cheap to clone.
#[derive(Clone)]
pub struct SigningKey {
    inner: Arc<Inner>,
}

struct Inner {
    kid: String,
    private_pem: String,
    public_pem: String,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    encoding: EncodingKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.inner.kid)
            .finish_non_exhaustive()
    }
}

/// The crypto library refused to make or use a key.
#[derive(Debug, thiserror::Error)]
#[error("RSA key: {0}")]
pub struct KeyError(String);

fn error(e: impl std::fmt::Display) -> KeyError {
    KeyError(e.to_string())
}

impl SigningKey {
    /// A fresh 2048-bit key.
    pub fn generate(kid: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(error)?;
        let private: Pkcs8V1Der<'_> = pair.as_der().map_err(error)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(error)?;
        let private_pem = pem("PRIVATE KEY", private.as_ref());
        let encoding = EncodingKey::from_rsa_pem(private_pem.as_bytes()).map_err(error)?;
        Ok(Self {
            inner: Arc::new(Inner {
                kid: kid.to_owned(),
                public_pem: pem("PUBLIC KEY", public.as_ref()),
                modulus: pair.public_key().modulus().big_endian_without_leading_zero().to_vec(),
                exponent: pair.public_key().exponent().big_endian_without_leading_zero().to_vec(),
                private_pem,
                encoding,
            }),
        })
    }

    /// The process's one key of this name. Keys of a simulated world secure nothing, and making one takes a
    /// second in a debug build: worlds that follow each other in one process share theirs.
    pub fn shared(kid: &str) -> Result<Self, KeyError> {
        static KEYS: Mutex<BTreeMap<String, SigningKey>> = Mutex::new(BTreeMap::new());
        let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(kid) {
            return Ok(key.clone());
        }
        let key = Self::generate(kid)?;
        keys.insert(kid.to_owned(), key.clone());
        Ok(key)
    }

    pub fn kid(&self) -> &str {
        &self.inner.kid
    }

    /// PKCS#8.
    pub fn private_pem(&self) -> &str {
        &self.inner.private_pem
    }

    pub fn public_pem(&self) -> &str {
        &self.inner.public_pem
    }

    /// A JWT over `claims`, RS256, with the `kid` in its header.
    pub fn sign(&self, claims: &Value) -> Result<String, KeyError> {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.inner.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.inner.encoding).map_err(error)
    }

    /// The public half as a JWK.
    pub fn jwk(&self) -> Value {
        let b64 = &general_purpose::URL_SAFE_NO_PAD;
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.inner.kid,
            "n": b64.encode(&self.inner.modulus), "e": b64.encode(&self.inner.exponent),
        })
    }
}

fn pem(kind: &str, der: &[u8]) -> String {
    let body = general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {kind}-----\n");
    for chunk in body.as_bytes().chunks(64) {
        out.extend(chunk.iter().copied().map(char::from));
        out.push('\n');
    }
    out + &format!("-----END {kind}-----\n")
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, jwk::Jwk};

    use super::*;

    #[test]
    fn what_it_signs_its_jwk_verifies() {
        let key = SigningKey::generate("k1").unwrap();
        let token = key.sign(&json!({"sub": "a"})).unwrap();
        let jwk: Jwk = serde_json::from_value(key.jwk()).unwrap();
        let mut rules = Validation::new(Algorithm::RS256);
        rules.validate_exp = false;
        rules.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(&jwk).unwrap(), &rules).unwrap();
        assert_eq!(claims.claims["sub"], "a");
    }
}
