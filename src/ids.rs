//! Names: scale sets, runners, and which runner names are ours.
//!
//! Runner name = pod name = Secret name = registration name:
//! `{slug of the set, at most 40}-{5: hash of the runner namespace's uid and the set's name}-{10 random base-32}`.
//! Lower case, DNS-1123, no dots, at most 57 characters. The hash tells this installation's runners from
//! those of another installation that has a scale set of the same name.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Longest slug of a scale set's name inside a runner's name.
pub const SLUG_MAX: usize = 40;
const HASH_LEN: usize = 5;
const RANDOM_LEN: usize = 10;
/// Base-32 without letters that read as digits or make words: Crockford's, in lower case.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: &str) -> Self {
                Self(Arc::from(text))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// A scale set's name as the configuration gives it: unique within one daemon.
    SetName
);
name_type!(
    /// The one name of a runner's pod, Secret and registrations.
    RunnerName
);

/// The part of a runner's name that stems from its set: lower case, `[a-z0-9-]`, at most [`SLUG_MAX`].
///
/// Empty when nothing of the name survives; configuration refuses such names, and sets whose slugs collide.
pub fn slug(set: &str) -> String {
    let mut out = String::with_capacity(set.len());
    for c in set.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(SLUG_MAX);
    out.trim_end_matches('-').to_owned()
}

/// Makes and recognises the runner names of one scale set of this installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namer {
    namespace_uid: String,
    prefix: String,
}

impl Namer {
    /// `namespace_uid` is the uid of the runner namespace's own object: it outlives every restart of the
    /// daemon and differs between clusters.
    pub fn new(namespace_uid: &str, set: &SetName) -> Self {
        let digest = Sha256::new()
            .chain_update(namespace_uid)
            .chain_update([0])
            .chain_update(set.as_str())
            .finalize();
        let hash: String = digest.iter().take(HASH_LEN).map(|b| base32(*b)).collect();
        Self {
            namespace_uid: namespace_uid.to_owned(),
            prefix: format!("{}-{hash}-", slug(set.as_str())),
        }
    }

    /// The one of another set of the same installation.
    #[must_use]
    pub fn of(&self, set: &SetName) -> Self {
        Self::new(&self.namespace_uid, set)
    }

    /// A fresh name. Ten base-32 characters: 50 bits, so that names need no registry.
    pub fn next(&self, rng: &mut fastrand::Rng) -> RunnerName {
        let random: String = (0..RANDOM_LEN).map(|_| base32(rng.u8(..))).collect();
        RunnerName::new(&format!("{}{random}", self.prefix))
    }

    /// Whether `name` has exactly this installation's and this set's pattern.
    pub fn is_ours(&self, name: &str) -> bool {
        name.strip_prefix(&self.prefix)
            .is_some_and(|rest| rest.len() == RANDOM_LEN && rest.bytes().all(|b| ALPHABET.contains(&b)))
    }
}

fn base32(byte: u8) -> char {
    char::from(ALPHABET[usize::from(byte & 31)])
}

/// Which deployment makes a pod, and where at GitHub its runner is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maker {
    /// Namespace and name of the deployment's Lease.
    pub lease: String,
    /// `configUrl` of the pod's set; `None`: made by an older version.
    pub github: Option<String>,
}

/// Whose a pod is whose name is one of ours: the name tells namespace and set, not the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Ours,
    /// Ours, of the time when its set lived elsewhere at GitHub.
    OursElsewhere,
    Anothers,
}

impl Maker {
    /// `ours`: what we write on the pods of that set; `removed`: our file names the set no more.
    pub fn whose(&self, ours: &Self, removed: bool) -> Whose {
        let same_lease = self.lease == ours.lease;
        let same_place = self.github.is_none() || self.github == ours.github;
        match (same_lease, same_place) {
            (true, false) => Whose::OursElsewhere,
            // A set of the same name, in another deployment of this namespace.
            (false, false) => Whose::Anothers,
            // The set is in another deployment's file now.
            (false, true) if removed => Whose::Anothers,
            // Where the Lease differs, ours had another name before.
            (_, true) => Whose::Ours,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_that_only_their_own_set_and_namespace_recognise() {
        let mut rng = fastrand::Rng::with_seed(7);
        let set = SetName::new("Linux Large (GPU) with a name that is really very long indeed");
        let namer = Namer::new("uid-1", &set);
        let name = namer.next(&mut rng);
        assert!(name.as_str().len() <= 63, "{name}");
        assert!(
            name.as_str()
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        );
        assert!(namer.is_ours(name.as_str()));
        assert!(!Namer::new("uid-2", &set).is_ours(name.as_str()));
        assert!(!Namer::new("uid-1", &SetName::new("other")).is_ours(name.as_str()));
        assert!(!namer.is_ours(&format!("{name}x")));
    }

    #[test]
    fn slugs_fold_case_and_punctuation() {
        assert_eq!(slug("Linux_Large.x64"), "linux-large-x64");
        assert_eq!(slug("--a--"), "a");
        assert_eq!(slug("日本"), "");
    }

    #[test]
    fn b9_b46_a_pod_with_one_of_our_names_is_ours_unless_lease_and_place_are_anothers() {
        let maker = |lease: &str, github: Option<&str>| Maker {
            lease: lease.to_owned(),
            github: github.map(str::to_owned),
        };
        let ours = maker("ns/ours", Some("https://github.com/one"));
        let cases = [
            (
                maker("ns/ours", Some("https://github.com/one")),
                Whose::Ours,
                Whose::Ours,
            ),
            (
                maker("ns/ours", Some("https://github.com/two")),
                Whose::OursElsewhere,
                Whose::OursElsewhere,
            ),
            (
                maker("ns/theirs", Some("https://github.com/two")),
                Whose::Anothers,
                Whose::Anothers,
            ),
            (
                maker("ns/renamed", Some("https://github.com/one")),
                Whose::Ours,
                Whose::Anothers,
            ),
            (maker("ns/ours", None), Whose::Ours, Whose::Ours),
            (maker("ns/renamed", None), Whose::Ours, Whose::Anothers),
        ];
        for (made_by, served, removed) in cases {
            assert_eq!(made_by.whose(&ours, false), served, "{made_by:?}");
            assert_eq!(made_by.whose(&ours, true), removed, "{made_by:?}, removed");
        }
    }
}
