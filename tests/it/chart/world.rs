//! docs/first-job.md, walked: its commands are run as they stand there, in their order. Only places differ (ports and
//! folders that are free, the kubeconfig of the test's own cluster).

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use gharts_listener::{
    config::{Proxy, Tls},
    http::{IDLE_BRIEF, reqwest_transport},
};
use serde_json::{Value, json};

use super::{cluster::Cluster, root, succeeded, values};
use crate::killed::{Control, LOOK_EVERY, PATIENCE, Process};

/// One block of commands of the document.
#[derive(Clone)]
pub(super) struct Block {
    pub(super) background: bool,
    pub(super) text: String,
}

pub(super) fn blocks() -> Vec<Block> {
    let text = fs::read_to_string(root().join("docs/first-job.md")).unwrap();
    let fenced = text.split("```").skip(1).step_by(2);
    fenced
        .map(|block| {
            let (info, text) = block.split_once('\n').unwrap();
            Block {
                background: info == "sh background",
                text: text.to_owned(),
            }
        })
        .collect()
}

/// The steps of the document, by their place in it.
pub(super) mod step {
    pub(in super::super) const INSTALL: usize = 0;
    pub(in super::super) const SIMULATE: usize = 1;
    pub(in super::super) const FILE: usize = 2;
    pub(in super::super) const CHECK: usize = 3;
    pub(in super::super) const RUN: usize = 4;
    pub(in super::super) const JOB: usize = 5;
    pub(in super::super) const STATE: usize = 6;
    pub(in super::super) const UPGRADE: usize = 7;
    pub(in super::super) const UNINSTALL: usize = 8;
    pub(in super::super) const LIST: usize = 9;
}

/// A cluster with the chart, the world outside, and the daemon.
pub(super) struct World {
    // The order is that of the end: the cluster goes last.
    pub(super) daemon: Option<Process>,
    simulator: Option<Process>,
    pub(super) control: Control,
    pub(super) port: u16,
    blocks: Vec<Block>,
    /// What `export` has set.
    exported: BTreeMap<String, String>,
    pub(super) cluster: Cluster,
}

impl World {
    /// Nothing done yet.
    pub(super) fn new(name: &str) -> Option<Self> {
        // The binaries install it in their `main`; here it is for this process's own client.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let cluster = Cluster::start(name)?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let bin = cluster.dir.join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_gharts-listener"), bin.join("gharts-listener")).unwrap();
        let helm = fs::canonicalize(&cluster.helm.0).unwrap();
        std::os::unix::fs::symlink(helm, bin.join("helm")).unwrap();
        let world = Self {
            daemon: None,
            simulator: None,
            control: Control {
                transport: reqwest_transport(&Tls::default(), &Proxy::default(), IDLE_BRIEF).unwrap(),
                url: format!("http://127.0.0.1:{port}/control"),
            },
            port,
            blocks: blocks(),
            exported: BTreeMap::new(),
            cluster,
        };
        let text = fs::read_to_string(values("first-job")).unwrap();
        fs::write(world.values(), world.placed(&text)).unwrap();
        Some(world)
    }

    /// All steps up to the running daemon.
    pub(super) async fn start(name: &str) -> Option<Self> {
        let mut world = Self::new(name)?;
        world.does(step::INSTALL);
        world.simulate().await;
        world.does(step::FILE);
        world.run().await;
        Some(world)
    }

    fn values(&self) -> PathBuf {
        self.cluster.dir.join("values.yaml")
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.cluster.dir.join("first-job")
    }

    /// The document's places become ours.
    fn placed(&self, text: &str) -> String {
        let of = |path: &Path| path.display().to_string();
        // First, since our own folders may be called so, too.
        text.replace("/tmp/first-job", &of(&self.folder()))
            .replace("~/.kube/config", &self.cluster.kubeconfig())
            .replace("charts/gharts-listener/ci/first-job-values.yaml", &of(&self.values()))
            .replace("18080", &self.port.to_string())
            .replace("18082", &(self.port + 2).to_string())
    }

    pub(super) fn command(&self, text: &str) -> Command {
        let path = format!(
            "{}:{}",
            self.cluster.dir.join("bin").display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new("bash");
        command
            .args(["-euc", text])
            .current_dir(root())
            .env("PATH", path)
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .envs(&self.exported)
            .stdin(Stdio::null());
        command
    }

    /// Runs a step to its end; what it printed.
    pub(super) fn does(&mut self, step: usize) -> String {
        let block = self.blocks[step].clone();
        assert!(!block.background, "{}", block.text);
        let text = self.placed(&block.text);
        let output = self.command(&text).output().unwrap();
        for assignments in text.lines().filter_map(|line| line.strip_prefix("export ")) {
            let pairs = assignments.split(' ').map(|pair| pair.split_once('=').unwrap());
            self.exported
                .extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        succeeded(&text, &output)
    }

    fn begins(&self, step: usize, log: &str, more: &str) -> Process {
        let block = &self.blocks[step];
        assert!(block.background, "{}", block.text);
        let log = fs::File::create(self.cluster.dir.join(log)).unwrap();
        let text = format!("exec {} {more}", self.placed(block.text.trim_end()));
        let child = self.command(&text).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        Process(child.unwrap())
    }

    pub(super) async fn simulate(&mut self) {
        let base = format!("--port-base {}", self.port);
        self.simulator = Some(self.begins(step::SIMULATE, "sim.log", &base));
        let addresses = self.folder().join("sim.json");
        let up = async {
            while !addresses.exists() {
                let ended = self.simulator.as_mut().unwrap().0.try_wait().unwrap();
                assert!(
                    ended.is_none(),
                    "{}",
                    fs::read_to_string(self.cluster.dir.join("sim.log")).unwrap()
                );
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(PATIENCE, up)
            .await
            .expect("the world outside is up");
    }

    pub(super) async fn run(&mut self) {
        let log = format!("run-{}.log", fs::read_dir(&self.cluster.dir).unwrap().count());
        self.daemon = Some(self.begins(step::RUN, &log, ""));
        self.control
            .until("a session", |state| state["left"]["sessions"] == 1)
            .await;
    }

    pub(super) async fn queue(&self, jobs: u64, seconds: u64) {
        let jobs = json!({"scaleSet": "set-1", "count": jobs, "durationSeconds": seconds});
        self.control.ask("POST", "/jobs", &jobs).await;
    }

    /// Until all of these jobs have ended and nothing is left of any.
    pub(super) async fn finished(&self, jobs: u64) -> Value {
        let done = |state: &Value| state["jobs"] == json!({"finished": jobs}) && crate::killed::nothing_left(state);
        self.control
            .until("the end of every job, and nothing left of any", done)
            .await
    }

    /// Until the daemon has taken over so many versions of its file.
    pub(super) async fn until_generation(&self, generation: u64) {
        let taken_over = async {
            loop {
                let output = self.command("gharts-listener status --json").output().unwrap();
                let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
                if said["configuration"]["generation"] == generation {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let end = tokio::time::timeout(PATIENCE, taken_over).await;
        end.expect("the file is taken over");
    }

    /// SIGTERM; its exit code must be 0.
    pub(super) fn stop(&mut self) {
        assert_eq!(self.daemon.take().unwrap().terminate(), Some(0));
    }
}
