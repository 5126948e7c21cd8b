//! The process's environment, and the variables that override keys of the file.
//!
//! `GHARTS_LISTENER__GHARTS__BASE_URL` overrides `gharts.baseUrl`. The separator is two underscores, also
//! after the prefix: Kubernetes gives every pod variables such as `GHARTS_LISTENER_PORT` for a service of
//! that name, and they must not land in the settings.

use std::collections::{BTreeMap, HashMap};

use ::config::{Case, Source as _};

use super::{Environment, place::Place};

const PREFIX: &str = "GHARTS_LISTENER";
const SEPARATOR: &str = "__";

/// The environment of this process. Variables that are not UTF-8 are left out: no key of ours needs one.
pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The source that `config` merges over the file.
///
/// Values stay text (no `try_parsing`: the id `0012` would become 12), empty ones count as unset.
pub(super) fn source(environment: impl IntoIterator<Item = (String, String)>) -> ::config::Environment {
    ::config::Environment::with_prefix(PREFIX)
        .prefix_separator(SEPARATOR)
        .separator(SEPARATOR)
        .convert_case(Case::Camel)
        .ignore_empty(true)
        .source(Some(environment.into_iter().collect::<HashMap<_, _>>()))
}

/// Which variable sets which place: `gharts.baseUrl` -> `GHARTS_LISTENER__GHARTS__BASE_URL`.
pub(super) fn overrides(environment: &Environment) -> BTreeMap<Place, String> {
    let mut found = BTreeMap::new();
    for (name, value) in environment {
        let one = source([(name.clone(), value.clone())]);
        for key in one.collect().unwrap_or_default().into_keys() {
            found.insert(Place::from_dotted(&key), name.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_camel_case_places_and_service_links_are_left_alone() {
        let environment = Environment::from([
            ("GHARTS_LISTENER__GHARTS__BASE_URL".to_owned(), "https://x".to_owned()),
            ("GHARTS_LISTENER__MAX_RUNNERS".to_owned(), "5".to_owned()),
            ("GHARTS_LISTENER__GITHUB__TLS__CA_FILE".to_owned(), String::new()),
            ("GHARTS_LISTENER_PORT".to_owned(), "tcp://10.0.0.1:8080".to_owned()),
            ("GHARTS_LISTENER_PORT_8080_TCP_ADDR".to_owned(), "10.0.0.1".to_owned()),
        ]);
        let places: Vec<String> = overrides(&environment).keys().map(ToString::to_string).collect();
        assert_eq!(places, ["gharts.baseUrl", "maxRunners"]);
    }
}
