//! Files and variables that hold secrets: can they be read, and do they look like what they should be?
//!
//! Nothing of their content leaves this module.

use std::{io::ErrorKind, path::Path};

use super::{Environment, SecretRef};

/// What a secret should look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Anything but nothing.
    Text,
    /// A PEM private key.
    PrivateKey,
    /// PEM certificates, at least one.
    Certificates,
    /// `user:password`.
    UserAndPassword,
}

/// Message and remedy when the secret cannot be read or has the wrong shape.
pub(super) fn probe(reference: &SecretRef, shape: Shape, environment: &Environment) -> Result<(), (String, String)> {
    let (text, source) = match reference {
        SecretRef::File(path) => (read(path)?, shown(path)),
        // The name is not repeated: somebody may have written the secret itself there.
        SecretRef::Env(variable) => match environment.get(variable) {
            Some(text) => (text.clone(), "the environment variable".to_owned()),
            None => {
                return Err((
                    "names an environment variable that is not set".to_owned(),
                    "set the variable, or name a file instead".to_owned(),
                ));
            }
        },
    };
    check_shape(&text, shape).map_err(|(fault, remedy)| (format!("{source} {fault}"), remedy.to_owned()))
}

fn read(path: &Path) -> Result<String, (String, String)> {
    std::fs::read_to_string(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "mount the file there, or correct the path (a path, not the content, belongs here)",
            ErrorKind::PermissionDenied => "let the daemon's user read it",
            ErrorKind::InvalidData => "it must be text (PEM, not DER)",
            _ => "name a readable file",
        };
        (format!("cannot read {}: {error}", shown(path)), remedy.to_owned())
    })
}

/// An absolute path as it is; anything else may be the secret itself, written where its file belongs.
fn shown(path: &Path) -> String {
    if path.is_absolute() {
        path.display().to_string()
    } else {
        "the file (a relative path)".to_owned()
    }
}

fn check_shape(text: &str, shape: Shape) -> Result<(), (&'static str, &'static str)> {
    match shape {
        _ if text.trim().is_empty() => Err(("is empty", "put the secret there")),
        Shape::Text => Ok(()),
        Shape::UserAndPassword if text.contains(':') => Ok(()),
        Shape::UserAndPassword => Err(("holds no user:password", "write user:password into it, on one line")),
        Shape::PrivateKey if is_private_key(text) => Ok(()),
        Shape::PrivateKey => Err((
            "does not hold a PEM private key",
            "use the .pem file that GitHub offered when the App's private key was made",
        )),
        Shape::Certificates if has_block(text, "CERTIFICATE") => Ok(()),
        Shape::Certificates => Err((
            "does not hold a PEM certificate",
            "give the CA bundle in PEM form (-----BEGIN CERTIFICATE-----)",
        )),
    }
}

fn is_private_key(text: &str) -> bool {
    has_block(text, "RSA PRIVATE KEY") || has_block(text, "PRIVATE KEY")
}

fn has_block(text: &str, label: &str) -> bool {
    let begin = text.find(&format!("-----BEGIN {label}-----"));
    let end = text.find(&format!("-----END {label}-----"));
    matches!((begin, end), (Some(begin), Some(end)) if begin < end)
}
