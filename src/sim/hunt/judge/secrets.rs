//! Secrets stand in Secrets and nowhere else.

use std::collections::HashMap;

use super::{Invariant, Judge};

/// So many characters of a secret in a row give it away.
const WINDOW: usize = 32;
/// What is shorter is none.
const SHORTEST: usize = 8;

impl Judge {
    pub(super) fn no_secret_in(&self, body: &[u8], place: &str) {
        let text = String::from_utf8_lossy(body);
        let shown = self.lock().jits.iter().any(|jit| text.contains(jit.as_str()));
        if shown {
            self.breach(Invariant::Secrets, format!("a JIT configuration in {place}"));
        }
    }

    /// None of the secrets stands in what the daemon said.
    pub(in crate::sim::hunt) fn no_secret_of<'a>(
        &self,
        secrets: impl Iterator<Item = &'a String>,
        said: &str,
        place: &str,
    ) {
        for at in shown(secrets, said) {
            let mut before: Vec<char> = said[..at].chars().rev().take(60).collect();
            before.reverse();
            let before: String = before.into_iter().collect();
            self.breach(Invariant::Secrets, format!("in {place}, after {before:?}"));
        }
    }
}

/// Where secrets stand in what was said, whole or in part.
fn shown<'a>(secrets: impl Iterator<Item = &'a String>, said: &str) -> Vec<usize> {
    // No secret has a gap.
    let is_gap = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'"';
    let mut windows: HashMap<&[u8], usize> = HashMap::new();
    let mut at = 0;
    for run in said.as_bytes().split(is_gap) {
        for (place, window) in run.windows(WINDOW).enumerate() {
            windows.entry(window).or_insert(at + place);
        }
        at += run.len() + 1;
    }
    let place = |secret: &'a String| {
        if secret.len() < WINDOW {
            said.find(secret.as_str())
        } else {
            let mut parts = secret.as_bytes().windows(WINDOW);
            parts.find_map(|part| windows.get(part).copied())
        }
    };
    let secrets = secrets.filter(|secret| secret.len() >= SHORTEST);
    secrets
        .filter_map(place)
        .filter(|at| said.is_char_boundary(*at))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_secret_is_shown_as_well() {
        let secret: String = (b'#'..=b'~').map(char::from).collect();
        let short = "ghp_short".to_owned();
        let found = |said: &str| shown([&secret, &short].into_iter(), said);
        assert_eq!(found(&format!("körper: \"{}\"", &secret[20..52])), [10]);
        assert_eq!(found(&format!("it is {}", &secret[20..51])), [0; 0]);
        assert_eq!(found("of ghp_short, and no more"), [3]);
    }
}
