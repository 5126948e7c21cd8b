//! Python's ways that show on the wire: how sets, lists and strings print, how a set is ordered, what a
//! pattern matches, and what httpx says about a failed call.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use http::StatusCode;
use regex::Regex;

/// The order of a Python set: by hash, the same within one process (`seed`), different in the next.
pub(super) fn set_order<'a>(seed: u64, items: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let distinct: BTreeSet<&String> = items.into_iter().collect();
    let mut out: Vec<String> = distinct.into_iter().cloned().collect();
    out.sort_by_key(|item| {
        let mut hasher = DefaultHasher::new();
        (seed, item).hash(&mut hasher);
        hasher.finish()
    });
    out
}

/// `{'a', 'b'}`, and `set()` for none.
pub(super) fn set(items: &[String]) -> String {
    if items.is_empty() {
        return "set()".to_owned();
    }
    format!("{{{}}}", joined(items))
}

/// `['a', 'b']`.
pub(super) fn list(items: &[String]) -> String {
    format!("[{}]", joined(items))
}

fn joined(items: &[String]) -> String {
    items.iter().map(|item| repr(item)).collect::<Vec<_>>().join(", ")
}

/// A string literal: single quotes, unless the text holds only those.
fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// `re.match`: anchored at the start only. A pattern that does not compile matches nothing.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(&format!("^(?:{pattern})")).is_ok_and(|regex| regex.is_match(text))
}

/// Names and labels: letters and digits of any script, `-` and `_`, at least one letter or digit.
pub(super) fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_') && text.chars().any(char::is_alphanumeric)
}

/// What httpx's `raise_for_status` says.
pub(super) fn status_error(status: StatusCode, url: &str) -> String {
    let side = if status.is_server_error() { "Server" } else { "Client" };
    let code = status.as_u16();
    let reason = status.canonical_reason().unwrap_or_default();
    format!(
        "{side} error '{code} {reason}' for url '{url}'\n\
         For more information check: https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/{code}"
    )
}

/// What `json.loads` says about an HTML page or nothing at all.
pub(super) const NOT_JSON: &str = "Expecting value: line 1 column 1 (char 0)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_and_lists_print_as_python_prints_them() {
        let items = vec!["linux".to_owned(), "it's".to_owned(), r"\d".to_owned()];
        assert_eq!(set(&items), r#"{'linux', "it's", '\\d'}"#);
        assert_eq!(list(&items[..1]), "['linux']");
        assert_eq!(set(&[]), "set()");
    }

    #[test]
    fn a_pattern_is_anchored_at_the_start_only() {
        assert!(matches("size-[a-z]+", "size-xl-99"));
        assert!(!matches("size-[a-z]+", "a-size-xl"));
        assert!(!matches("a|b", "cb"));
        assert!(!matches("(", "("));
    }

    #[test]
    fn sets_keep_their_order_within_a_process() {
        let items: Vec<String> = ["a", "b", "c", "a"].map(str::to_owned).to_vec();
        assert_eq!(set_order(1, &items), set_order(1, items.iter().rev()));
        assert_eq!(set_order(1, &items).len(), 3);
    }
}
