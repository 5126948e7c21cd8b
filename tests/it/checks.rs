//! `check` and `cleanup` as a person runs them: a process, against the simulated world on real sockets.

use std::{path::Path, sync::Arc, time::Duration};

use gharts_listener::{
    clock::Clock,
    config,
    identity::{Cached, github_token_source},
    scaleset::{Authority, Connection, Spec, ensure},
    shutdown::Tasks,
    sim::{
        serve::{ServeOptions, Served, serve},
        world::{Options, Provisioner, SetOptions},
    },
};

use serde_json::{Value, json};
use tower::ServiceExt as _;

struct Stage {
    served: Served,
    _tasks: Tasks,
}

impl Stage {
    async fn set(name: &str, options: Options) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("check-{name}-{}", std::process::id()));
        let place = ServeOptions {
            dir,
            port_base: None,
            daemon: None,
            kubeconfig: None,
            human_logs: true,
        };
        let tasks = Tasks::new();
        let served = serve(options, &place, &Clock::system(), &tasks).await.unwrap();
        Self { served, _tasks: tasks }
    }

    /// What `check` says, and its exit code.
    async fn check(&self) -> (String, i32) {
        self.says(&["check"]).await
    }

    /// What a command says with the daemon's file, and its exit code.
    async fn says(&self, arguments: &[&str]) -> (String, i32) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_gharts-listener"));
        command.args(arguments).arg("-c").arg(&self.served.config);
        let output = tokio::time::timeout(Duration::from_secs(120), command.output());
        let output = output.await.unwrap().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (text, output.status.code().unwrap())
    }

    /// As `run` does it, with the daemon's own credential.
    async fn register(&self, set: &str) {
        let environment = config::Environment::new();
        let config = config::load(&self.served.config, &environment).unwrap();
        let set = config.scale_sets.iter().find(|s| s.name.as_str() == set).unwrap();
        let (transport, clock) = (self.served.world.services.transport(), Clock::system());
        let source = github_token_source(&set.github, transport.clone(), clock.clone()).unwrap();
        let token = Arc::new(Cached::new(source, clock.clone()));
        let url = set.github.config_url.clone();
        let connection = Connection::new(transport, clock, url, Authority::Rest(token), 1);
        let spec = Spec {
            group: set.github.runner_group.clone(),
            name: set.name.to_string(),
            labels: set.labels.clone(),
            disable_update: true,
            known_id: None,
            inherited_id: None,
        };
        ensure(&connection, &spec).await.unwrap();
    }

    /// Something happens to GitHub; the control interface's answer.
    async fn change(&self, change: &Value) -> u16 {
        let request = http::Request::patch("/control/github").body(axum::body::Body::from(change.to_string()));
        let answer = self.served.world.router().oneshot(request.unwrap()).await.unwrap();
        answer.status().as_u16()
    }

    fn edit(&self, change: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(&self.served.config).unwrap();
        std::fs::write(&self.served.config, change(text)).unwrap();
    }
}

fn two_scopes() -> Options {
    let mut web = SetOptions::new("web", Provisioner::ScaleSet, 5);
    web.scope = Some("acme/web".to_owned());
    Options {
        sets: vec![SetOptions::new("linux", Provisioner::ScaleSet, 5), web],
        ..Options::default()
    }
}

#[tokio::test]
async fn b25_check_tries_every_credential_and_tells_what_groups_keep_out_and_which_labels_are_not_stored() {
    let stage = Stage::set("notes", two_scopes()).await;
    let (text, code) = stage.check().await;
    assert_eq!(code, 0, "{text}");
    let base = &stage.served.addresses.github;
    for line in [
        format!(
            "ok      GitHub at {base}/acme accepts the credential and shows the runner group default: group Default has id 1\n"
        ),
        format!("ok      GitHub at {base}/acme/web accepts the credential and shows the runner group default: "),
        "ok      the scale set linux at GitHub: does not exist yet".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert!(!text.contains("note:"), "{text}");

    let change = json!({
        "group": {"name": "Default", "publicRepositories": false, "selected": []},
        "multiLabel": false,
    });
    assert_eq!(stage.change(&change).await, 200);
    stage.edit(|text| text.replace("  - name: linux\n", "  - name: linux\n    labels: [linux, gpu]\n"));
    stage.register("linux").await;
    let (text, code) = stage.check().await;
    assert_eq!(code, 0, "a note is no failure: {text}");
    for part in [
        "note: runner group \"Default\" is limited to selected",
        "does not serve public repositories",
        "note: not stored: gpu",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[tokio::test]
async fn b8_check_says_which_credential_is_refused_and_that_the_other_is_not() {
    let stage = Stage::set("refused", two_scopes()).await;
    let services = &stage.served.world.services;
    services.github.remove_pat(services.pat_of("acme/web").unwrap());
    let (text, code) = stage.check().await;
    assert_eq!(code, 1, "{text}");
    let base = &stage.served.addresses.github;
    let line = |verdict: &str, scope: &str| {
        text.contains(&format!("{verdict}GitHub at {base}/{scope} accepts the credential"))
    };
    assert!(line("ok      ", "acme") && line("failed  ", "acme/web"), "{text}");
    assert!(
        text.contains("X-GitHub-Request-Id") && text.contains("help: check github.auth"),
        "{text}"
    );

    let limit = json!({"limit": {"whom": "rest", "as": "secondary", "seconds": 600}});
    assert_eq!(stage.change(&limit).await, 200);
    assert_eq!(stage.change(&json!({"group": {"name": "nowhere"}})).await, 404);
    assert_eq!(stage.change(&json!({"removeScaleSet": "nothing"})).await, 404);
    assert_eq!(stage.change(&json!({"limits": 1})).await, 400);
    let (text, _) = stage.check().await;
    assert!(text.contains("GitHub limits the rate"), "{text}");
}

#[tokio::test]
async fn b56_cleanup_names_what_it_removes_and_its_exit_code_says_whether_anything_is_left() {
    let stage = Stage::set("cleanup", two_scopes()).await;
    let (text, code) = stage.says(&["cleanup", "linx"]).await;
    assert_eq!(code, 64, "{text}");
    assert!(
        text.contains("error: the file has no scale set linx\n  help: "),
        "{text}"
    );
    for set in ["linux", "web"] {
        stage.register(set).await;
    }
    let github = &stage.served.world.services.github;
    let linux = github.set("linux").unwrap().id;
    assert!(github.register_runner("acme", Some(linux), "linux-zzzzz-0123456789", &[]));
    let base = &stage.served.addresses.github;
    let web = format!(
        "scale set web: id {} at GitHub at {base}/acme/web\n",
        github.set("web").unwrap().id
    );

    let (text, code) = stage.says(&["cleanup", "--scale-sets", "--dry-run"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&format!("would remove {web}")), "{text}");
    assert!(github.set("web").is_some());
    let (text, code) = stage.says(&["cleanup", "--scale-sets"]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&format!("removed   {web}")), "{text}");
    assert!(text.contains("kept      scale set linux: somebody else"), "{text}");
    assert!(text.ends_with("\n1 removed, 1 kept\n"), "{text}");
    assert!(github.remove_runner("linux-zzzzz-0123456789"));
    let (text, code) = stage.says(&["cleanup", "--scale-sets"]).await;
    assert_eq!(code, 0, "{text}");
    assert_eq!(github.sets().len(), 0);
    let (text, code) = stage.says(&["cleanup", "--scale-sets"]).await;
    assert_eq!((text.as_str(), code), ("nothing is left of this installation\n", 0));
}
