//! The daemon's file and its credentials, as an administrator would write them for this world.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    ACCOUNT, APP, APP_CLIENT, Addresses, Binding, Credential, DAEMON_NAMESPACE, LEASE, Options, Provisioner,
    RUNNER_NAMESPACE, SetOptions, TEAM, WorldError,
};

/// The daemon's PAT, in the directory of its file.
pub const GITHUB_TOKEN_FILE: &str = "github-token";
/// The App's private key, beside it.
pub const APP_KEY_FILE: &str = "github-app.pem";

/// What the file says about the machine that the daemon runs on.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// None: the daemon is handed a client.
    pub kubeconfig: Option<PathBuf>,
    /// None: the daemon's default.
    pub listen: Option<SocketAddr>,
    /// For people who watch the daemon in a terminal.
    pub human_logs: bool,
}

/// Writes a file that only its owner may read; an older one is replaced.
pub fn write_private(path: &Path, text: &str) -> Result<(), WorldError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        // `mode` counts only for a new file.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|source| WorldError::File {
        path: path.display().to_string(),
        source,
    })
}

pub(super) fn write_credentials(dir: &Path, pat: &str, app_key: &str) -> Result<(), WorldError> {
    fs::create_dir_all(dir).map_err(|source| WorldError::File {
        path: dir.display().to_string(),
        source,
    })?;
    write_private(&dir.join(APP_KEY_FILE), app_key)?;
    write_private(&dir.join(GITHUB_TOKEN_FILE), pat)
}

/// A path as YAML: JSON's quoting is YAML's too.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.display().to_string()).to_string()
}

pub(super) fn config_text(options: &Options, addresses: &Addresses, dir: &Path, place: &Place) -> String {
    let credential = match options.credential {
        Credential::Pat => format!("pat: {{ tokenFile: {} }}", quoted(&dir.join(GITHUB_TOKEN_FILE))),
        Credential::App => format!(
            "app: {{ clientId: {APP_CLIENT}, installationId: {}, privateKeyFile: {} }}",
            APP.1,
            quoted(&dir.join(APP_KEY_FILE))
        ),
        Credential::Brokered => "gharts: {}".to_owned(),
    };
    let mut text = format!(
        "# A daemon in the simulated world.\ngithub:\n  configUrl: {}\n  auth:\n    {credential}\n",
        addresses.config_url(),
    );
    let uses_gharts = options.sets.iter().any(|set| set.provisioner == Provisioner::Gharts);
    if uses_gharts || options.credential == Credential::Brokered {
        text.push_str(&gharts_section(options, addresses));
    }
    let _ = writeln!(text, "kubernetes:\n  namespace: {RUNNER_NAMESPACE}");
    if let Some(kubeconfig) = &place.kubeconfig {
        let _ = writeln!(text, "  kubeconfig: {}", quoted(kubeconfig));
    }
    let _ = writeln!(text, "lease: {{ name: {LEASE}, namespace: {DAEMON_NAMESPACE} }}");
    if let Some(listen) = place.listen {
        let _ = writeln!(text, "server: {{ listen: {listen} }}");
    }
    if place.human_logs {
        text.push_str("logging: { format: human, level: info }\n");
    }
    if let Some(max) = options.max_runners {
        let _ = writeln!(text, "maxRunners: {max}");
    }
    text.push_str("scaleSets:\n");
    for set in &options.sets {
        text.push_str(&set_section(set, addresses, dir));
    }
    text
}

fn gharts_section(options: &Options, addresses: &Addresses) -> String {
    let limits = &options.gharts_limits;
    let team = if options.flavour.has_teams() {
        format!("\n  team: {TEAM}")
    } else {
        String::new()
    };
    format!(
        "gharts:
  baseUrl: {base}{team}
  oidc:
    provider: kubernetes
    audience: {base}
    serviceAccount: {ACCOUNT}
    namespace: {DAEMON_NAMESPACE}
  # A real GHARTS gives 2.4 to 4 calls a second and freezes at 16 in flight; a simulated one can answer at once.
  # The defaults are 3 per second, burst 6, 4 in flight.
  limits: {{ requestsPerSecond: {rate}, burst: {burst}, maxInFlight: {in_flight} }}
",
        base = addresses.gharts,
        rate = limits.requests_per_second,
        burst = limits.burst,
        in_flight = limits.max_in_flight,
    )
}

/// Where the PAT for a scope of its own stands.
pub(super) fn scope_token_file(dir: &Path, scope: &str) -> PathBuf {
    dir.join(format!("{GITHUB_TOKEN_FILE}-{}", scope.replace('/', "-")))
}

fn set_section(set: &SetOptions, addresses: &Addresses, dir: &Path) -> String {
    let provisioner = match set.provisioner {
        Provisioner::Gharts => "gharts",
        Provisioner::ScaleSet => "scaleSet",
    };
    let mut text = format!(
        "  - name: {}\n    minRunners: {}\n    maxRunners: {}\n    provisioner: {provisioner}\n",
        set.name, set.min_runners, set.max_runners
    );
    let binding = match set.binding {
        Binding::Auto => "",
        Binding::ScaleSet => "    runnerBinding: scaleSet\n",
        Binding::LabelsAssigned => "    runnerBinding: labels\n    labelsDemand: assigned\n",
        Binding::LabelsAvailable => "    runnerBinding: labels\n    labelsDemand: available\n",
        Binding::RegistrationToken => "    runnerBinding: registrationToken\n",
    };
    text.push_str(binding);
    let mut asked = serde_json::Map::new();
    if !set.gharts_labels.is_empty() {
        asked.insert("labels".to_owned(), set.gharts_labels.as_slice().into());
    }
    if let Some(team) = &set.team {
        asked.insert("team".to_owned(), team.as_str().into());
    }
    if !asked.is_empty() {
        let _ = writeln!(text, "    gharts: {}", serde_json::Value::Object(asked));
    }
    if let Some(scope) = &set.scope {
        let _ = writeln!(
            text,
            "    github: {{ configUrl: {}/{scope}, auth: {{ pat: {{ tokenFile: {} }} }} }}",
            addresses.github,
            quoted(&scope_token_file(dir, scope))
        );
    }
    if let Some(idle) = set.idle_timeout {
        let _ = writeln!(text, "    timeouts: {{ idle: {}s }}", idle.as_secs());
    }
    if let Some(kept) = set.keep_failed {
        let _ = writeln!(text, "    keepFailed: {}s", kept.as_secs());
    }
    text.push_str("    template:\n");
    if !set.annotations.is_empty() {
        text.push_str("      metadata:\n        annotations:\n");
        for (key, value) in &set.annotations {
            let _ = writeln!(text, "          {key}: {}", serde_json::Value::from(value.as_str()));
        }
    }
    text.push_str(
        "      spec:\n        containers:\n          - name: runner\n            image: \
         ghcr.io/actions/actions-runner:latest\n",
    );
    text
}
