//! Reading the secrets that the file points to, each time one is needed: rotation needs no restart.

use secrecy::SecretString;

use super::SecretRef;

/// A secret could not be read. Names the place, never the content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read the secret in {path}: {reason}; mount the file, readable for this process's user")]
    Unreadable { path: String, reason: String },
    #[error("the secret in {path} is empty; write it into the file")]
    EmptyFile { path: String },
    #[error("environment variable {name} is not set, empty, or not text; set it to the secret")]
    Environment { name: String },
}

impl SecretRef {
    /// The secret as it is now, without surrounding white space. Blocks for the reading of a small file.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::File(path) => {
                let path_text = || path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|e| SecretError::Unreadable {
                    path: path_text(),
                    reason: e.to_string(),
                })?;
                trimmed(text).ok_or_else(|| SecretError::EmptyFile { path: path_text() })
            }
            Self::Env(name) => std::env::var(name)
                .ok()
                .and_then(trimmed)
                .ok_or_else(|| SecretError::Environment { name: name.clone() }),
        }
    }
}

impl std::fmt::Display for SecretRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
        }
    }
}

fn trimmed(text: String) -> Option<SecretString> {
    let text = SecretString::from(text);
    let inner = secrecy::ExposeSecret::expose_secret(&text).trim();
    (!inner.is_empty()).then(|| SecretString::from(inner))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn b38_a_secret_is_read_anew_each_time_and_trimmed() {
        let path = std::env::temp_dir().join(format!("gharts-listener-secret-{}", std::process::id()));
        let secret = SecretRef::File(path.clone());
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(secret.read().unwrap().expose_secret(), "one");
        std::fs::write(&path, "two").unwrap();
        assert_eq!(secret.read().unwrap().expose_secret(), "two");
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(secret.read(), Err(SecretError::EmptyFile { .. })));
        std::fs::remove_file(&path).unwrap();
        let error = secret.read().unwrap_err().to_string();
        assert!(
            error.contains(path.to_str().unwrap()) && error.contains("mount"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_variable_is_named() {
        let error = SecretRef::Env("GHARTS_LISTENER_NO_SUCH".into()).read().unwrap_err();
        assert!(error.to_string().contains("GHARTS_LISTENER_NO_SUCH"));
    }
}
