//! Credentials: who may call what, until when.
//!
//! Tokens of the Actions service are real JWTs (clients read `exp` out of the admin token), signed with a
//! secret that only this service has, so that they need no table. Times are checked against the simulated
//! clock, never the machine's.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Value, json};

use super::{
    settings::{App, Pat},
    world::{Now, TenantId, World, random_text},
};

/// Longest life of an App JWT that GitHub accepts, and how far its clock may run ahead.
const APP_JWT_LONGEST: i64 = 600;
const CLOCK_SKEW: i64 = 60;
const HOUR: Duration = Duration::from_secs(3600);

/// Why a REST call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    BadCredentials,
    /// The App JWT; the text says what is wrong with it.
    BadJwt(&'static str),
    Forbidden,
    NotFound,
    RateLimited,
}

/// What GitHub tells a REST caller about its budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) limit: u32,
    pub(super) used: u32,
    pub(super) reset: Timestamp,
}

/// A token and when it dies.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) token: String,
    pub(super) expires: Timestamp,
}

#[derive(Debug)]
struct Registration {
    tenant: TenantId,
    valid_from: Timestamp,
    expires: Timestamp,
}

/// Every credential that exists.
pub(super) struct Access {
    apps: Vec<App>,
    pats: BTreeMap<String, Pat>,
    installation_tokens: HashMap<String, Timestamp>,
    registrations: HashMap<String, Registration>,
    budgets: HashMap<String, Budget>,
    /// Tokens signed before this generation are dead, whatever their `exp`.
    admin_generation: u64,
    secret: Vec<u8>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    pub(super) fn new(apps: Vec<App>, pats: Vec<Pat>, rng: &mut fastrand::Rng) -> Self {
        Self {
            apps,
            pats: pats.into_iter().map(|p| (p.token.clone(), p)).collect(),
            installation_tokens: HashMap::new(),
            registrations: HashMap::new(),
            budgets: HashMap::new(),
            admin_generation: 0,
            secret: random_text(rng, 64).into_bytes(),
        }
    }

    pub(super) fn revoke_admin_tokens(&mut self) {
        self.admin_generation += 1;
    }

    pub(super) fn revoke_installation_tokens(&mut self) {
        self.installation_tokens.clear();
    }

    pub(super) fn put_pat(&mut self, pat: Pat) {
        self.pats.insert(pat.token.clone(), pat);
    }

    pub(super) fn remove_pat(&mut self, token: &str) {
        self.pats.remove(token);
    }

    /// Whoever has several keys has several entries.
    pub(super) fn add_app_key(&mut self, public_pem: &str) -> bool {
        let Some(first) = self.apps.first() else { return false };
        let again = App {
            public_pem: public_pem.to_owned(),
            ..first.clone()
        };
        self.apps.push(again);
        true
    }

    pub(super) fn remove_app_key(&mut self, public_pem: &str) {
        self.apps.retain(|app| app.public_pem != public_pem);
    }

    /// Forgets the tokens that are dead, and the budgets that begin anew.
    pub(super) fn forget(&mut self, now: Timestamp) {
        self.installation_tokens.retain(|_, expires| *expires > now);
        self.registrations.retain(|_, registration| registration.expires > now);
        self.budgets.retain(|_, budget| budget.reset > now);
    }

    fn sign(&self, claims: &Value) -> Option<String> {
        jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            claims,
            &EncodingKey::from_secret(&self.secret),
        )
        .ok()
    }

    /// The claims of a token of ours that is still alive.
    fn verify(&self, token: &str, now: Now) -> Option<Value> {
        let claims = decode(token, &DecodingKey::from_secret(&self.secret), Algorithm::HS256)?;
        (claims["exp"].as_i64()? > now.wall.as_second()).then_some(claims)
    }
}

impl World {
    /// Exchanges an App's JWT for an installation token.
    pub(super) fn installation_token(&mut self, jwt: &str, installation: u64, now: Now) -> Result<Issued, Refusal> {
        let app = self.check_app_jwt(jwt, now)?;
        if app.installation_id != installation {
            return Err(Refusal::NotFound);
        }
        let token = format!("ghs_{}", random_text(&mut self.rng, 36));
        let expires = now.wall + HOUR;
        self.access.installation_tokens.insert(token.clone(), expires);
        Ok(Issued { token, expires })
    }

    fn check_app_jwt(&self, jwt: &str, now: Now) -> Result<&App, Refusal> {
        const UNREADABLE: Refusal = Refusal::BadJwt("A JSON web token could not be decoded");
        let now = now.wall.as_second();
        let (app, claims) = self
            .access
            .apps
            .iter()
            .find_map(|app| {
                let key = DecodingKey::from_rsa_pem(app.public_pem.as_bytes()).ok()?;
                Some((app, decode(jwt, &key, Algorithm::RS256)?))
            })
            .ok_or(UNREADABLE)?;
        let issuer = match &claims["iss"] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return Err(Refusal::BadJwt("'Issuer' claim ('iss') must be provided")),
        };
        if issuer != app.client_id && issuer != app.app_id.to_string() {
            return Err(Refusal::BadJwt("Integration must generate a public key"));
        }
        let (Some(issued), Some(expires)) = (claims["iat"].as_i64(), claims["exp"].as_i64()) else {
            return Err(Refusal::BadJwt(
                "'Expiration time' claim ('exp') must be a numeric value",
            ));
        };
        if issued > now + CLOCK_SKEW {
            return Err(Refusal::BadJwt(
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
            ));
        }
        if expires <= now {
            return Err(Refusal::BadJwt("'Expiration time' claim ('exp') must be in the future"));
        }
        if expires > now + APP_JWT_LONGEST || expires - issued > APP_JWT_LONGEST {
            return Err(Refusal::BadJwt(
                "'Expiration time' claim ('exp') is too far in the future",
            ));
        }
        Ok(app)
    }

    /// Checks a REST credential for a scope, and takes one call off its budget.
    pub(super) fn authorize_rest(
        &mut self,
        token: &str,
        scope: &str,
        now: Now,
    ) -> (Option<Budget>, Result<TenantId, Refusal>) {
        let is_in = |only: &Option<String>| only.as_ref().is_none_or(|only| only.eq_ignore_ascii_case(scope));
        let (may, visible) = match self.access.pats.get(token) {
            Some(pat) => (pat.manages_runners, is_in(&pat.only_in)),
            None => match self.access.installation_tokens.get(token) {
                Some(expires) if *expires > now.wall => (true, true),
                _ => return (None, Err(Refusal::BadCredentials)),
            },
        };
        let limit = self.settings.rest_limit;
        let fresh = Budget {
            limit,
            used: 0,
            reset: now.wall + HOUR,
        };
        let budget = self.access.budgets.entry(token.to_owned()).or_insert(fresh);
        if budget.reset <= now.wall {
            *budget = fresh;
        }
        budget.limit = limit;
        let verdict = if budget.used >= limit {
            Err(Refusal::RateLimited)
        } else {
            budget.used += 1;
            Ok(())
        };
        let budget = *budget;
        let tenant = verdict.and_then(|()| {
            let tenant = self.tenant_by_scope(scope).filter(|_| visible);
            let tenant = tenant.ok_or(Refusal::NotFound)?;
            if may { Ok(tenant) } else { Err(Refusal::Forbidden) }
        });
        (Some(budget), tenant)
    }

    pub(super) fn registration_token(&mut self, tenant: TenantId, now: Now) -> Issued {
        let token = format!("A{}", random_text(&mut self.rng, 28).to_uppercase());
        let expires = now.wall + HOUR;
        let valid_from = now.wall + self.settings.registration_token_delay;
        self.access.registrations.insert(
            token.clone(),
            Registration {
                tenant,
                valid_from,
                expires,
            },
        );
        Issued { token, expires }
    }

    /// Hop 3: the Actions service's address and the admin token, for a registration token of that very scope.
    pub(super) fn admin_connection(
        &mut self,
        registration: &str,
        config_url: &str,
        now: Now,
    ) -> Result<(String, String), Refusal> {
        let known = self
            .access
            .registrations
            .get(registration)
            .filter(|r| r.valid_from <= now.wall && now.wall < r.expires)
            .ok_or(Refusal::BadCredentials)?;
        let tenant = known.tenant;
        let path = url::Url::parse(config_url).map_err(|_| Refusal::NotFound)?;
        if self.tenant_by_scope(path.path().trim_matches('/')) != Some(tenant) {
            return Err(Refusal::NotFound);
        }
        let token = self
            .access
            .sign(&json!({
                "iss": "actions-service", "aud": self.tenants[tenant].slug, "kind": "admin",
                "generation": self.access.admin_generation, "tenant": tenant,
                "iat": now.wall.as_second(),
                "exp": (now.wall + self.settings.admin_token_ttl).as_second(),
            }))
            .ok_or(Refusal::BadCredentials)?;
        Ok((self.tenant_url(tenant), token))
    }

    /// `{service}/actions-service/{tenant}/`.
    pub(super) fn tenant_url(&self, tenant: TenantId) -> String {
        format!("{}/actions-service/{}/", self.service_url, self.tenants[tenant].slug)
    }

    /// The tenant that an admin token rules, if it rules the one in the path.
    pub(super) fn check_admin(&self, token: &str, slug: &str, now: Now) -> Option<TenantId> {
        let claims = self.access.verify(token, now)?;
        let tenant = usize::try_from(claims["tenant"].as_u64()?).ok()?;
        let alive = claims["kind"] == "admin"
            && claims["generation"] == self.access.admin_generation
            && self.tenants.get(tenant)?.slug == slug;
        alive.then_some(tenant)
    }

    pub(super) fn queue_token(&self, session: &str, serial: u64, now: Now) -> String {
        let claims = json!({
            "kind": "queue", "session": session, "serial": serial,
            "exp": (now.wall + self.settings.queue_token_ttl).as_second(),
        });
        self.access.sign(&claims).unwrap_or_default()
    }

    /// The session and serial number of a queue token that is still alive.
    pub(super) fn read_queue_token(&self, token: &str, now: Now) -> Option<(String, u64)> {
        let claims = self.access.verify(token, now)?;
        if claims["kind"] != "queue" {
            return None;
        }
        Some((claims["session"].as_str()?.to_owned(), claims["serial"].as_u64()?))
    }
}

/// Signature only: times are judged by the simulated clock.
fn decode(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Option<Value> {
    let mut rules = Validation::new(algorithm);
    rules.validate_exp = false;
    rules.validate_aud = false;
    rules.required_spec_claims.clear();
    jsonwebtoken::decode::<Value>(token, key, &rules).ok().map(|t| t.claims)
}
