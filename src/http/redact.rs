//! Peers' texts made fit for logs and status: one line, cut, and nothing in it that looks like a credential.
//!
//! This works by looks, so it errs on the side of taking too much away; runner names, ids and paths of
//! ordinary length survive. It is the second fence: credentials are `SecretString`s and are never formatted.

/// How much of a peer's text is kept, in characters.
const MAX: usize = 300;
/// Base64-like runs longer than this are taken for keys, JIT configurations or tokens.
const LONG_RUN: usize = 40;
/// What a GitHub token starts with.
const TOKEN_PREFIXES: [&str; 6] = ["ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_"];
/// Words after which a credential follows.
const SCHEMES: [&str; 7] = [
    "bearer",
    "basic",
    "remoteauth",
    "token",
    "access_token",
    "client_secret",
    "password",
];
/// How the key of `key=value` ends when the value is a credential.
const SECRET_KEYS: [&str; 5] = ["token", "secret", "password", "sig", "signature"];
const REPLACEMENT: &str = "[redacted]";

/// Cuts `text` to one line of about 300 characters, escapes control characters, and replaces what looks
/// like a credential.
pub fn redact(text: &str) -> String {
    let text = bare_urls(text.trim().trim_start_matches('\u{feff}'));
    let mut out = Line::default();
    let mut rest = text.as_str();
    let mut after_scheme = false;
    while let Some(first) = rest.chars().next() {
        if out.is_full() {
            out.text.push('…');
            break;
        }
        let run = rest.find(|c| !is_token_char(c)).unwrap_or(rest.len());
        if run > 0 {
            let (word, tail) = rest.split_at(run);
            if looks_secret(word) || (after_scheme && looks_random(word)) {
                out.push_str(REPLACEMENT);
            } else if let Some(key) = key_of_secret(word) {
                out.push_str(key);
                out.push('=');
                out.push_str(REPLACEMENT);
            } else {
                out.push_str(word);
            }
            after_scheme = SCHEMES.iter().any(|s| word.eq_ignore_ascii_case(s));
            rest = tail;
        } else {
            after_scheme &= matches!(first, ' ' | ':' | '"' | '\'');
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out.text
}

/// URLs without user and query: a URL is long and no secret by itself, but these parts may be.
fn bare_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        out.push_str(before);
        let end = url
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '>'))
            .unwrap_or(url.len());
        let (url, tail) = url.split_at(end);
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let slash = path.find('/').unwrap_or(path.len());
        let (authority, path) = path.split_at(slash);
        out.push_str(authority.rsplit_once('@').map_or(authority, |(_, host)| host));
        out.push_str(path);
        rest = tail;
    }
    out + rest
}

/// The output, which counts characters and stops taking any when full.
#[derive(Default)]
struct Line {
    text: String,
    chars: usize,
}

impl Line {
    fn is_full(&self) -> bool {
        self.chars >= MAX
    }

    fn push_str(&mut self, s: &str) {
        for c in s.chars() {
            self.push(c);
        }
    }

    fn push(&mut self, c: char) {
        if self.is_full() {
            return;
        }
        if c.is_control() || is_invisible(c) {
            let escaped = c.escape_default();
            self.chars += escaped.len();
            self.text.extend(escaped);
        } else {
            self.text.push(c);
            self.chars += 1;
        }
    }
}

/// Marks that reorder, hide or break text: a stranger's way to make a log line lie.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '_' | '-' | '.' | '~' | '=')
}

fn looks_secret(word: &str) -> bool {
    TOKEN_PREFIXES.iter().any(|p| word.contains(p))
        || (word.contains("eyJ") && word.contains('.') && word.len() >= 20)
        || word.split(['.', '~']).any(|run| run.len() > LONG_RUN && is_dense(run))
}

/// A long run that is not words joined by dashes and slashes: upper case, lower case and digits mixed, or
/// one unbroken piece.
fn is_dense(run: &str) -> bool {
    let mixed = run.bytes().any(|b| b.is_ascii_uppercase())
        && run.bytes().any(|b| b.is_ascii_lowercase())
        && run.bytes().any(|b| b.is_ascii_digit());
    mixed || run.split(['-', '_', '/']).any(|piece| piece.len() > LONG_RUN)
}

/// The key, where the word is `key=value` and the value a credential.
fn key_of_secret(word: &str) -> Option<&str> {
    let (key, value) = word.split_once('=')?;
    let names_secret = SECRET_KEYS.iter().any(|name| key.to_ascii_lowercase().ends_with(name));
    (names_secret && !value.is_empty()).then_some(key)
}

/// What follows the name of an authentication scheme: a credential, or a word of prose?
fn looks_random(word: &str) -> bool {
    word.len() >= 20 || (word.len() >= 8 && word.bytes().any(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_messages_survive() {
        for text in [
            "Runner linux-large-with-a-rather-long-name-1a2b3-0123456789 already exists.",
            "Bearer authentication is required",
            "ActivityId 5f7e1f3c-0c8e-4f6e-9d55-0f2c3c9b8a11",
            "no route to /api/v1/runners/jit: 404",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn what_looks_like_a_credential_goes() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        assert_eq!(redact(&format!("bad token {jwt}!")), "bad token [redacted]!");
        assert_eq!(
            redact("Authorization: Bearer s3cretvalue, sorry"),
            "Authorization: Bearer [redacted], sorry"
        );
        assert_eq!(redact("ghs_abc is bad"), "[redacted] is bad");
        assert_eq!(
            redact("/q?sessionToken=abc&x=1, {\"client_secret\": \"hunter22\"}"),
            "/q?sessionToken=[redacted]&x=1, {\"client_secret\": \"[redacted]\"}"
        );
        let blob = "aGVsbG8gd29ybGQ0".repeat(4);
        assert_eq!(
            redact(&format!("{{\"encodedJITConfig\":\"{blob}\"}}")),
            "{\"encodedJITConfig\":\"[redacted]\"}"
        );
        assert_eq!(redact(&"0123456789abcdef".repeat(4)), "[redacted]");
    }

    #[test]
    fn a_credential_that_the_cut_would_halve_goes_whole() {
        let text = format!("{}{}", "x ".repeat(140), "Ab1".repeat(100));
        let out = redact(&text);
        assert!(out.ends_with("[redacted]") && !out.contains("Ab1"), "{out}");
    }

    #[test]
    fn urls_lose_user_and_query() {
        assert_eq!(
            redact("for url 'https://u:p@h.example/p?token=s#x' and http://h2"),
            "for url 'https://h.example/p' and http://h2"
        );
    }

    #[test]
    fn it_is_one_line_and_cut_on_a_character_boundary() {
        let out = redact(&format!("a\nb\u{1b}[31m\u{202e}{}", "ä".repeat(1000)));
        assert!(out.starts_with("a\\nb\\u{1b}[31m\\u{202e}ää"));
        assert!(out.ends_with('…'));
        assert!(!out.chars().any(char::is_control));
    }
}
