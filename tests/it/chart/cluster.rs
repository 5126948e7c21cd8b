//! A real cluster of a test's own: what the tests do to it (releases, restarts, throttling) would disturb others.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use super::{DAEMON_NAMESPACE, Helm, RUNNER_NAMESPACE, chart, helm, root, succeeded};
use crate::killed::scratch;

/// One at a time: each is three busy processes.
static ONE: Mutex<()> = Mutex::new(());

pub struct Cluster {
    pub helm: Helm,
    pub dir: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Cluster {
    /// None, with a word about it, where the binaries are missing.
    pub fn start(name: &str) -> Option<Self> {
        let helm = helm()?;
        if std::env::var("GHARTS_TEST_KUBECONFIG").is_err() {
            println!("SKIPPED: no real API server: {name} was not tried on one");
            return None;
        }
        if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
            println!("SKIPPED: no kubectl: {name} was not tried on a real API server");
            return None;
        }
        let cluster = Self {
            helm,
            dir: scratch(name),
            _alone: ONE.lock().unwrap_or_else(PoisonError::into_inner),
        };
        cluster.script("start");
        Some(cluster)
    }

    fn script(&self, verb: &str) {
        // Not a pipe: the servers inherit it, and it would never end.
        let log = self.dir.join(format!("{verb}.log"));
        let file = fs::File::create(&log).unwrap();
        let status = Command::new(root().join("tests/real-kubernetes.sh"))
            .arg(verb)
            .arg(self.dir.join("cluster"))
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status();
        assert!(
            status.unwrap().success(),
            "{verb}: {}",
            fs::read_to_string(log).unwrap()
        );
    }

    /// The API server ends and comes back, with the same port and data.
    pub fn restart_api_server(&self) {
        self.script("restart");
    }

    /// An administrator's.
    pub fn kubeconfig(&self) -> String {
        self.dir.join("cluster/kubeconfig").display().to_string()
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        succeeded(&format!("kubectl {arguments:?}"), &self.try_kubectl(arguments))
    }

    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        Command::new("kubectl")
            .args(["--kubeconfig", &self.kubeconfig()])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Makes or changes this object.
    pub fn apply(&self, object: &Value) {
        let file = self.dir.join("object.json");
        fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&["apply", "--server-side", "--filename", file.to_str().unwrap()]);
    }

    pub fn helm_does(&self, arguments: &[&str]) -> String {
        self.helm
            .succeeds(&[&["--kubeconfig", &self.kubeconfig()], arguments].concat())
    }

    /// Installs the chart as the release `gharts-listener`.
    pub fn install(&self, arguments: &[&str]) -> String {
        let chart = chart();
        let all = [
            "install",
            "gharts-listener",
            &chart,
            "--namespace",
            DAEMON_NAMESPACE,
            "--create-namespace",
        ];
        self.helm_does(&[&all, arguments].concat())
    }

    /// What there is in the daemon's and the runners' namespaces, one `kind/name` each. Not Events: they expire.
    pub fn everything(&self) -> Vec<String> {
        const KINDS: &str = "all,secrets,configmaps,leases,roles,rolebindings,serviceaccounts,poddisruptionbudgets,\
                             networkpolicies,persistentvolumeclaims";
        let mut all = Vec::new();
        for namespace in [DAEMON_NAMESPACE, RUNNER_NAMESPACE] {
            let names = self.kubectl(&["--namespace", namespace, "get", KINDS, "--output", "name"]);
            all.extend(names.lines().map(str::to_owned));
        }
        all
    }

    /// What this user asked of the API server so far: the audit log's entries.
    pub fn audit(&self, user: &str) -> Vec<Value> {
        let log = fs::read_to_string(self.dir.join("cluster/audit.log")).unwrap();
        let entries = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.filter(|entry| entry["user"]["username"] == user).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script("stop");
    }
}
