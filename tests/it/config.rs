//! The file (B38): what is refused, with which words, all at once; and what the environment may change.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use gharts_listener::config::{self, Config, Environment, Problem, ProvisionerKind, Scope};

/// The shape of a key, not a key.
const PEM: &str = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";

/// A folder of this test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gharts-listener-config-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A sound file; `DIR` stands for this folder.
    fn sound(&self) -> String {
        self.file("app.pem", PEM);
        self.text(
            "
github:
  configUrl: https://github.com/acme
  auth:
    app: { clientId: Iv1.abc, installationId: 12, privateKeyFile: DIR/app.pem }
gharts:
  baseUrl: https://gharts.example.com/
  oidc: { provider: kubernetes, audience: gharts, serviceAccount: listener }
kubernetes: { namespace: runners }
scaleSets:
  - name: linux-large
    maxRunners: 50
",
        )
    }

    fn text(&self, text: &str) -> String {
        text.replace("DIR", self.0.to_str().unwrap())
    }

    /// Problems as text, with `DIR` for this folder.
    fn told(&self, problems: &[Problem]) -> String {
        let lines: Vec<String> = problems
            .iter()
            .map(|p| format!("{}: {}\n  -> {}", p.path, p.message, p.remedy))
            .collect();
        lines.join("\n").replace(self.0.to_str().unwrap(), "DIR")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn load(text: &str) -> Result<Config, Vec<Problem>> {
    config::parse(text, &Environment::new())
}

fn refused(folder: &Folder, text: &str) -> String {
    folder.told(&load(&folder.text(text)).unwrap_err())
}

/// A sound file with one line replaced.
fn refused_with(from: &str, to: &str) -> String {
    let folder = Folder::new();
    let sound = folder.sound();
    assert!(sound.contains(from), "{from}");
    refused(&folder, &sound.replace(from, to))
}

#[test]
fn b38_the_example_loads_once_its_files_exist() {
    let folder = Folder::new();
    let key = folder.file("app.pem", PEM);
    let text = config::EXAMPLE.replace("/etc/gharts-listener/app.pem", key.to_str().unwrap());
    let config = load(&text).unwrap();
    assert_eq!(
        config.github.config_url.scope,
        Scope::Organization { org: "acme".to_owned() }
    );
    assert_eq!(config.max_runners, Some(200));
    let gharts = config.gharts.unwrap();
    assert_eq!(gharts.timeout, Duration::from_secs(45));
    assert_eq!(gharts.limits, config::Limits::default());
    assert_eq!(gharts.retry, config::Retry::default());
    let set = &config.scale_sets[0];
    assert_eq!(set.timeouts, config::Timeouts::default());
    assert_eq!(set.gharts.labels, Some(vec!["linux".to_owned()]));
    assert_eq!(set.template.spec.as_ref().unwrap().containers[0].name, "runner");
}

#[test]
fn b38_a_short_file_gets_every_default() {
    let folder = Folder::new();
    let config = load(&folder.sound()).unwrap();
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.github.limits, config::Limits::github());
    let set = &config.scale_sets[0];
    assert_eq!(set.labels, ["linux-large"]);
    assert_eq!(set.provisioner, ProvisionerKind::Gharts);
    let containers = &set.template.spec.as_ref().unwrap().containers;
    assert_eq!(containers.len(), 1);
    assert_eq!(
        containers[0].image.as_deref(),
        Some("ghcr.io/actions/actions-runner:latest")
    );
}

#[test]
fn b38_what_show_prints_loads_to_the_same_configuration() {
    let folder = Folder::new();
    let key = folder.file("app.pem", PEM);
    let example = config::EXAMPLE.replace("/etc/gharts-listener/app.pem", key.to_str().unwrap());
    for text in [example, folder.sound()] {
        let config = load(&text).unwrap();
        let shown = config::show(&config).unwrap();
        assert_eq!(load(&shown).unwrap(), config, "{shown}");
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
}

const KUBERNETES: &str = "{ provider: kubernetes, audience: gharts, serviceAccount: listener }";

#[test]
fn b16_a_command_as_identity_is_read_and_shown() {
    let folder = Folder::new();
    let sound = folder.sound();
    let short = sound.replace(KUBERNETES, "{ provider: exec, exec: { command: [/bin/echo, tok] } }");
    let long = sound.replace(
        KUBERNETES,
        "{ provider: exec, exec: { command: [/bin/echo, --to, a b], env: { PROFILE: x }, timeout: 20s } }",
    );
    let exec = |config: &Config| match config.gharts.as_ref().map(|g| g.oidc.clone()) {
        Some(config::Oidc::Exec(exec)) => exec,
        other => panic!("{other:?}"),
    };
    let config = load(&short).unwrap();
    assert_eq!(exec(&config).timeout, Duration::from_secs(10));
    assert_eq!(exec(&config).command, ["/bin/echo", "tok"]);
    let config = load(&long).unwrap();
    assert_eq!(exec(&config).command, ["/bin/echo", "--to", "a b"]);
    assert_eq!(exec(&config).env["PROFILE"], "x");
    assert_eq!(load(&config::show(&config).unwrap()).unwrap(), config);
    let in_path = short.replace("/bin/echo", "echo");
    let environment = environment(&[("PATH", "/usr/bin:/bin")]);
    assert!(config::parse(&in_path, &environment).is_ok());
}

#[test]
fn b16_what_is_wrong_with_a_command_is_told() {
    let with = |oidc: &str| refused_with(KUBERNETES, oidc);
    insta::assert_snapshot!(with("{ provider: exec }"), @"
    gharts.oidc.exec: is required with provider exec
      -> give command: program and arguments
    ");
    insta::assert_snapshot!(with("{ provider: exec, audience: gharts, exec: { command: [get-token --now], timeout: 1m } }"), @"
    gharts.oidc.audience: is not used by provider exec
      -> remove it, or choose the provider that it belongs to
    gharts.oidc.exec.command[0]: is no program in PATH
      -> one entry per argument, the program first; give its absolute path
    gharts.oidc.exec.timeout: is longer than 25s
      -> calls wait for the token; 10s is the default
    ");
    insta::assert_snapshot!(with("{ provider: exec, exec: { command: [./get-token] } }"), @"
    gharts.oidc.exec.command[0]: is a relative path
      -> an absolute path, or the bare name of a program in PATH; no shell reads it
    ");
    insta::assert_snapshot!(with("{ provider: exec, exec: { command: [/nonexistent/get-token] } }"), @"
    gharts.oidc.exec.command[0]: /nonexistent/get-token is no file that may be executed
      -> install it there, or correct the path
    ");
    insta::assert_snapshot!(with("{ provider: exec, exec: { command: [] } }"), @"
    gharts.oidc.exec.command: expected at least 1 entry
      -> Program (an absolute path, or a name in PATH) and its arguments. No shell. It prints the token alone, or JSON: `{\"token\", \"expiresAt\"}`, or Kubernetes' ExecCredential.
    ");
}

#[test]
fn b44_access_without_a_credential_of_githubs_needs_a_gharts() {
    let folder = Folder::new();
    let app = folder.text("app: { clientId: Iv1.abc, installationId: 12, privateKeyFile: DIR/app.pem }");
    let sound = folder.sound().replace(&app, "gharts: {}");
    let config = load(&sound).unwrap();
    assert_eq!(config.github.auth, config::GitHubAuth::Gharts);
    assert_eq!(load(&config::show(&config).unwrap()).unwrap(), config);
    let (before, rest) = sound.split_once("gharts:\n").unwrap();
    let after = &rest[rest.find("kubernetes: {").unwrap()..];
    insta::assert_snapshot!(refused(&folder, &format!("{before}{after}    provisioner: scaleSet\n")), @"
    github.auth.gharts: needs the section gharts
      -> add gharts with baseUrl and oidc at the top of the file
    ");
    insta::assert_snapshot!(refused(&folder, &sound.replace("gharts: {}", "gharts: { url: https://x }")), @"
    github.auth.gharts.url: unknown key
      -> remove it
    ");
    insta::assert_snapshot!(refused(&folder, &sound.replace("gharts: {}", &format!("gharts: {{}}\n    {app}"))), @"
    github.auth: gives more than one way: app, gharts
      -> keep exactly one of app, pat and gharts
    ");
}

#[test]
fn b43_a_binding_that_cannot_be_meant_so_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let sound = folder.sound();
    let with = |lines: &str| sound.replace("    maxRunners: 50\n", &format!("    maxRunners: 50\n{lines}"));
    for (lines, path, words) in [
        (
            "    labelsDemand: assigned\n",
            "labelsDemand",
            "is for runnerBinding: labels only",
        ),
        (
            "    gharts: { runnerGroupId: 3 }\n",
            "gharts.runnerGroupId",
            "is for runnerBinding: labels only",
        ),
        (
            "    provisioner: scaleSet\n    runnerBinding: registrationToken\n",
            "runnerBinding",
            "come from GitHub itself",
        ),
        (
            "    provisioner: scaleSet\n    gharts: { team: a }\n",
            "gharts.team",
            "come from GitHub itself",
        ),
        (
            "    provisioner: scaleSet\n    gharts: { labels: [a] }\n",
            "gharts.labels",
            "come from GitHub itself",
        ),
        (
            "    runnerBinding: registrationToken\n    gharts: { labels: [a] }\n",
            "gharts",
            "can ask for neither",
        ),
        (
            "    runnerBinding: labels\n    gharts: { labels: [other] }\n",
            "gharts.labels",
            "lacks \"linux-large\"",
        ),
        (
            "    runnerBinding: labels\n    github: { configUrl: \"https://github.com/acme/web\" }\n",
            "runnerBinding",
            "an organization",
        ),
    ] {
        let told = refused(&folder, &with(lines));
        assert!(told.starts_with(&format!("scaleSets[0].{path}: ")), "{lines}{told}");
        assert!(told.contains(words), "{lines}{told}");
        assert_eq!(told.lines().count(), 2, "one problem: {told}");
    }
    for lines in [
        "    runnerBinding: registrationToken\n    labels: [x.y]\n",
        "    runnerBinding: labels\n    labels: [linux, self-hosted]\n    gharts: { labels: [linux, arc], runnerGroupId: 3 }\n",
        "    runnerBinding: labels\n    labelsDemand: assigned\n    gharts: { team: data }\n",
    ] {
        let config = load(&with(lines)).unwrap_or_else(|problems| panic!("{lines}{}", folder.told(&problems)));
        let shown = config::show(&config).unwrap();
        assert_eq!(load(&shown).unwrap(), config, "{shown}");
    }
}

#[test]
fn b23_secrets_travel_over_https_or_stay_on_this_machine() {
    let folder = Folder::new();
    folder.file("secret", "s");
    let external = |url: &str| {
        let oidc = format!(
            "{{ provider: external, external: {{ tokenUrl: \"{url}\", clientId: x, clientSecretFile: DIR/secret }} }}"
        );
        folder.text(&folder.sound().replace(KUBERNETES, &oidc))
    };
    for url in [
        "https://login.example.com/token",
        "http://127.0.0.1:8/token",
        "http://localhost:8/token",
        "http://[::1]:8/t",
    ] {
        assert!(load(&external(url)).is_ok(), "{url}");
    }
    let base = |url: &str| folder.sound().replace("https://gharts.example.com/", url);
    assert!(load(&base("http://127.0.0.1:8000")).is_ok());
    for (text, place) in [
        (
            external("http://login.example.com/token"),
            "gharts.oidc.external.tokenUrl",
        ),
        (
            external("http://127.0.0.1.example.com/token"),
            "gharts.oidc.external.tokenUrl",
        ),
        (
            external("ftp://login.example.com/token"),
            "gharts.oidc.external.tokenUrl",
        ),
        (base("http://gharts.example.com"), "gharts.baseUrl"),
        (base("http://10.0.0.7:8000"), "gharts.baseUrl"),
    ] {
        let problems = load(&text).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].path, place);
    }
}

#[test]
fn b38_everything_wrong_is_told_at_once_with_place_and_remedy() {
    let folder = Folder::new();
    folder.file("no.pem", "hello");
    let text = "
github:
  configUrl: http://github.com/acme
  auth:
    app: { clientId: Iv1.abc, installationId: 12, privateKeyFile: DIR/no.pem }
  tls: { caFile: DIR/missing-ca.pem }
gharts:
  baseURL: https://gharts.example.com
  oidc: { provider: kubernetes, audience: gharts, serviceAccount: listener, tokenExpiration: 5m }
kubernetes: { namespace: Runners }
scaleSets:
  - name: Linux Large
    labels: [linux large]
    maxRunners: \"50\"
  - name: linux-large
    minRunners: 5
    maxRunners: 3
    timeouts: { scheduling: 45m, imagePull: soon }
    template:
      metadata: { name: mine }
      spec:
        restartPolicy: Always
        containers:
          - name: runner
            imagePullPolice: Always
            image: runner
            env: [{ name: CORES, value: 4 }]
  - name: 日本
    maxRunners: 1
    template: { spec: { containers: [{ name: main, image: runner }] } }
";
    insta::assert_snapshot!(refused(&folder, text), @r#"
        gharts.baseURL: unknown key
          -> did you mean baseUrl?
        gharts.oidc.tokenExpiration: is shorter than 10m
          -> Kubernetes gives no token for less than 10m; 1h is the default
        github.auth.app.privateKeyFile: DIR/no.pem does not hold a PEM private key
          -> use the .pem file that GitHub offered when the App's private key was made
        github.configUrl: must use https (plain http only to loopback)
          -> https://HOST/ORG, https://HOST/OWNER/REPO or https://HOST/enterprises/NAME
        github.tls.caFile: cannot read DIR/missing-ca.pem: No such file or directory (os error 2)
          -> mount the file there, or correct the path (a path, not the content, belongs here)
        kubernetes.namespace: is not the name of a namespace
          -> lower-case letters, digits and hyphens, at most 63 characters
        scaleSets[0].labels[0]: "linux large" is a label that GHARTS refuses
          -> use letters, digits, hyphens and underscores, with at least one letter or digit; gharts.labels of the set may name other labels for GHARTS
        scaleSets[0].maxRunners: expected a whole number, found the text "50"
          -> write 50 without quotes
        scaleSets[1].minRunners: is 5, more than maxRunners (3)
          -> lower minRunners or raise maxRunners
        scaleSets[1].name: "linux-large" and "Linux Large" (scaleSets[0]) both become "linux-large" in runner names
          -> rename one so that they differ in letters or digits (the first 40 characters count), in whatever organizations they are; their labels may be alike
        scaleSets[1].template.metadata.name: is reserved
          -> remove it: every runner gets a name of its own
        scaleSets[1].template.spec.containers[0].env[0].value: invalid type: integer `4`, expected a string
          -> put it in quotes
        scaleSets[1].template.spec.containers[0].imagePullPolice: is not a field of a pod template
          -> check its spelling and indentation (`kubectl explain pod.spec`)
        scaleSets[1].template.spec.restartPolicy: must be Never
          -> remove it: a just-in-time runner runs once
        scaleSets[1].timeouts: scheduling, imagePull and registration add up to 58m
          -> stay under 50m together: a just-in-time configuration lives an hour
        scaleSets[1].timeouts.imagePull: expected a duration such as 1h, 90s or 500ms, or whole seconds; found the text "soon"
          -> Until the images are there: `10m` by default.
        scaleSets[2].name: has no ASCII letter or digit, so runner names cannot be made of it
          -> such as linux-large; it is also the set's label when labels are not given
        scaleSets[2].template.spec.containers: has no container named runner
          -> name the container that runs the runner `runner`; the others are sidecars
        "#);
}

#[test]
fn b38_reserved_fields_of_a_template_are_refused_by_path() {
    let folder = Folder::new();
    let template = "maxRunners: 50
    template:
      metadata:
        namespace: other
        ownerReferences: []
        labels: { app: fine, gharts-listener.dev/set: mine }
        annotations: { gharts-listener/state: busy }
      spec:
        nodeName: node-1
        activeDeadlineSeconds: 60
        initContainers:
          - { name: prepare, image: x, env: [{ name: ACTIONS_RUNNER_INPUT_JITCONFIG, value: x }] }
        containers:
          - { name: runner, image: x }
          - { name: runner }";
    insta::assert_snapshot!(refused(&folder, &folder.sound().replace("maxRunners: 50", template)), @r#"
        scaleSets[0].template.metadata.annotations["gharts-listener/state"]: is reserved
          -> use another prefix: the daemon keeps its own state there
        scaleSets[0].template.metadata.labels["gharts-listener.dev/set"]: is reserved
          -> use another prefix: the daemon keeps its own state there
        scaleSets[0].template.metadata.namespace: is reserved
          -> remove it: kubernetes.namespace says where the runners live
        scaleSets[0].template.metadata.ownerReferences: is reserved
          -> remove it: runners belong to nobody, so that they outlive the daemon's restarts
        scaleSets[0].template.spec.activeDeadlineSeconds: is reserved
          -> remove it: it would end busy runners; use timeouts.total
        scaleSets[0].template.spec.containers: has 2 containers named runner
          -> keep exactly one
        scaleSets[0].template.spec.containers[1].image: is required
          -> such as ghcr.io/actions/actions-runner:latest
        scaleSets[0].template.spec.initContainers[0].env[0]: ACTIONS_RUNNER_INPUT_JITCONFIG is reserved
          -> remove it: the daemon sets it, in the container runner only
        scaleSets[0].template.spec.nodeName: is reserved
          -> remove it: it goes round the scheduler; use nodeSelector or affinity
        "#);
}

/// Whatever is done to one line of the example: an answer, never a panic, and never an empty refusal.
#[test]
fn b38_any_damage_to_the_file_gets_an_answer() {
    let folder = Folder::new();
    let key = folder.file("app.pem", PEM);
    let text = config::EXAMPLE.replace("/etc/gharts-listener/app.pem", key.to_str().unwrap());
    let lines: Vec<&str> = text.lines().collect();
    let mut refusals = 0;
    for (n, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, l)| l.contains(':') && !l.trim_start().starts_with('#'))
    {
        let (head, _) = line.split_once(':').unwrap();
        for value in [
            "",
            " null",
            " []",
            " {}",
            " 1",
            " -1",
            " 1.5",
            " 99999999999999999999",
            " yes",
            " '\u{0}'",
            " [",
        ] {
            let damaged = format!("{head}:{value}");
            let mut copy = lines.clone();
            copy[n] = &damaged;
            if let Err(problems) = load(&copy.join("\n")) {
                assert!(!problems.is_empty(), "{damaged}");
                assert!(
                    problems
                        .iter()
                        .all(|p| !p.path.is_empty() && !p.message.is_empty() && !p.remedy.is_empty())
                );
                refusals += 1;
            }
        }
    }
    assert!(refusals > 100, "{refusals}");
}

#[test]
fn b38_urls_need_https_except_to_loopback_and_hold_no_credentials() {
    let url = "https://gharts.example.com/";
    insta::assert_snapshot!(refused_with(url, "http://gharts.example.com"), @"
        gharts.baseUrl: must use https (plain http only to loopback)
          -> https://HOST, with a port and a path where needed
        ");
    insta::assert_snapshot!(refused_with(url, "https://me:secret@gharts.example.com"), @"
        gharts.baseUrl: must not hold credentials
          -> https://HOST, with a port and a path where needed
        ");
    insta::assert_snapshot!(refused_with("https://github.com/acme", "https://github.com/a/b/c"), @"
        github.configUrl: must name an organization, a repository or an enterprise
          -> https://HOST/ORG, https://HOST/OWNER/REPO or https://HOST/enterprises/NAME
        ");
    let folder = Folder::new();
    for loopback in ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000"] {
        assert!(load(&folder.sound().replace(url, loopback)).is_ok(), "{loopback}");
    }
}

#[test]
fn b38_exactly_one_way_to_authenticate_and_one_place_of_each_secret() {
    let app = "app: { clientId: Iv1.abc, installationId: 12, privateKeyFile: DIR/app.pem }";
    let folder = Folder::new();
    let app = folder.text(app);
    let with = |auth: &str| refused(&folder, &folder.sound().replace(&app, auth));
    insta::assert_snapshot!(with("{}"), @"
        github.auth: gives no way to authenticate
          -> give exactly one of app, pat and gharts
        ");
    insta::assert_snapshot!(with(&format!("{app}\n    pat: {{ tokenEnv: TOKEN }}")), @"
        github.auth: gives more than one way: app, pat
          -> keep exactly one of app, pat and gharts
        ");
    insta::assert_snapshot!(with("pat: { tokenEnv: TOKEN, tokenFile: DIR/token }"), @"
        github.auth.pat: tokenFile and tokenEnv are both given
          -> keep exactly one of them
        ");
    insta::assert_snapshot!(with("pat: { tokenEnv: TOKEN }"), @"
        github.auth.pat.tokenEnv: names an environment variable that is not set
          -> set the variable, or name a file instead
        ");
    insta::assert_snapshot!(with("pat: { token: ghp_abcdef }"), @"
        github.auth.pat.token: unknown key
          -> remove it; known here: tokenEnv, tokenFile
        github.auth.pat.tokenFile: is required
          -> name the file that holds the secret, or its environment variable with tokenEnv
        ");
}

/// The sound file with a second set that has `github` of its own.
fn with_second_set(folder: &Folder, name: &str, github: &str) -> String {
    let second = folder.text(&format!("  - {{ name: {name}, maxRunners: 5, github: {github} }}\n"));
    folder.sound() + &second
}

#[test]
fn a_set_may_live_elsewhere_at_github_and_what_it_does_not_say_comes_from_the_top() {
    let folder = Folder::new();
    folder.file("token", "ghp_abc");
    let github =
        "{ configUrl: https://github.com/other/web, runnerGroup: web, auth: { pat: { tokenFile: DIR/token } } }";
    let text = with_second_set(&folder, "web", github);
    let config = load(&text).unwrap();
    let (first, second) = (&config.scale_sets[0].github, &config.scale_sets[1].github);
    assert_eq!(first, &config.github);
    assert_eq!(second.config_url.url.as_str(), "https://github.com/other/web");
    assert_eq!(second.runner_group, "web");
    assert!(matches!(second.auth, config::GitHubAuth::Pat { .. }));
    assert_eq!(second.limits, config.github.limits);
    assert_eq!(load(&config::show(&config).unwrap()).unwrap(), config);

    let only_group = load(&with_second_set(&folder, "web", "{ runnerGroup: web }")).unwrap();
    let second = &only_group.scale_sets[1].github;
    assert_eq!(
        (&second.config_url, &second.auth),
        (&only_group.github.config_url, &only_group.github.auth)
    );
    assert_eq!(load(&config::show(&only_group).unwrap()).unwrap(), only_group);
}

#[test]
fn a_credential_is_not_shown_to_a_host_that_it_was_not_given_for() {
    let folder = Folder::new();
    let elsewhere = "configUrl: https://ghes.example.com/acme";
    let text = with_second_set(&folder, "web", &format!("{{ {elsewhere} }}"));
    insta::assert_snapshot!(refused(&folder, &text), @"
        scaleSets[1].github.configUrl: is on another host than github.configUrl, whose credential does not belong there
          -> give the set an auth of its own beside it
        ");
    let app = "auth: { app: { clientId: Iv1.abc, installationId: 12, privateKeyFile: DIR/app.pem } }";
    let config = load(&with_second_set(&folder, "web", &format!("{{ {elsewhere}, {app} }}"))).unwrap();
    assert_eq!(load(&config::show(&config).unwrap()).unwrap(), config);
}

#[test]
fn names_of_sets_differ_in_whatever_organizations_they_are() {
    let folder = Folder::new();
    let text = with_second_set(&folder, "linux-large", "{ configUrl: https://github.com/other }");
    insta::assert_snapshot!(refused(&folder, &text), @r#"
        scaleSets[1].name: "linux-large" is the name of scaleSets[0] already
          -> rename one so that they differ in letters or digits (the first 40 characters count), in whatever organizations they are; their labels may be alike
        "#);
}

#[test]
fn b38_a_scale_set_that_names_gharts_needs_the_section() {
    let folder = Folder::new();
    let text = folder.sound();
    let (before, after) = (text.find("gharts:").unwrap(), text.find("kubernetes:").unwrap());
    let without = format!("{}{}", &text[..before], &text[after..]);
    assert_eq!(
        load(&without).unwrap().scale_sets[0].provisioner,
        ProvisionerKind::ScaleSet
    );
    let named = without.replace("maxRunners: 50", "maxRunners: 50\n    provisioner: gharts");
    insta::assert_snapshot!(refused(&folder, &named), @"
        scaleSets[0].provisioner: is gharts, but the file has no gharts section
          -> add gharts with baseUrl and oidc, or use provisioner: scaleSet
        ");
}

#[test]
fn b38_labels_that_gharts_refuses_are_fine_where_its_policy_never_sees_them() {
    let folder = Folder::new();
    let with = |lines: &str| {
        folder
            .sound()
            .replace("maxRunners: 50", &format!("maxRunners: 50\n    {lines}"))
    };
    assert!(load(&with("labels: [linux.x64]")).is_err());
    assert!(load(&with("labels: ['_-']")).is_err());
    assert!(load(&with("labels: [linux.x64]\n    provisioner: scaleSet")).is_ok());
    assert!(load(&with("labels: [linux.x64]\n    gharts: { labels: [linux] }")).is_ok());
    assert!(load(&with(&format!("labels: [{}]", "x".repeat(256)))).is_err());
}

#[test]
fn b38_what_is_no_yaml_or_no_mapping_is_told_with_its_line() {
    let folder = Folder::new();
    insta::assert_snapshot!(refused(&folder, "github: [\n"), @"
        (file): is not YAML: did not find expected node content at line 2 column 1, while parsing a flow node
          -> mend the syntax at that line
        ");
    insta::assert_snapshot!(refused(&folder, "- a\n"), @"
        (file): expected a mapping at the top
          -> `gharts-listener config example` shows the shape
        ");
    insta::assert_snapshot!(refused(&folder, ""), @"
        github: is required
          -> Where the jobs come from.
        kubernetes: is required
          -> Where the runners live.
        scaleSets: is required
          -> One entry per runner scale set; at least one.
        ");
}

#[test]
fn b38_kubernetes_quantities_may_be_numbers_and_annotations_may_have_dots() {
    let folder = Folder::new();
    let template = "maxRunners: 50
    template:
      metadata: { annotations: { example.com/a.b: text } }
      spec:
        containers: [{ name: runner, image: x, resources: { requests: { cpu: 2 } } }]";
    let config = load(&folder.sound().replace("maxRunners: 50", template)).unwrap();
    let template = &config.scale_sets[0].template;
    let annotations = template.metadata.as_ref().unwrap().annotations.as_ref().unwrap();
    assert_eq!(annotations["example.com/a.b"], "text");
    let containers = &template.spec.as_ref().unwrap().containers;
    let requests = containers[0].resources.as_ref().unwrap().requests.as_ref().unwrap();
    assert_eq!(requests["cpu"].0, "2");
}

#[test]
fn b38_the_environment_overrides_single_values() {
    let folder = Folder::new();
    let config = config::parse(
        &folder.sound(),
        &environment(&[
            ("GHARTS_LISTENER__GHARTS__BASE_URL", "https://other.example.com/api"),
            ("GHARTS_LISTENER__GHARTS__TEAM", "0012"),
            ("GHARTS_LISTENER__MAX_RUNNERS", "7"),
            ("GHARTS_LISTENER__GHARTS__LIMITS__REQUESTS_PER_SECOND", "1.5"),
            ("GHARTS_LISTENER__GHARTS__TIMEOUT", "30"),
            ("GHARTS_LISTENER__LOGGING__LEVEL", ""),
        ]),
    )
    .unwrap();
    let gharts = config.gharts.unwrap();
    assert_eq!(gharts.base_url.as_str(), "https://other.example.com/api");
    assert_eq!(gharts.team.as_deref(), Some("0012"));
    assert_eq!(gharts.limits.requests_per_second.to_string(), "1.5");
    assert_eq!(gharts.timeout, Duration::from_secs(30));
    assert_eq!(config.max_runners, Some(7));
    assert_eq!(config.logging.level, "info");
}

#[test]
fn b38_a_required_value_may_come_from_the_environment_alone() {
    let folder = Folder::new();
    let text = folder.sound().replace("  baseUrl: https://gharts.example.com/\n", "");
    assert!(load(&text).is_err());
    let variables = environment(&[("GHARTS_LISTENER__GHARTS__BASE_URL", "https://gharts.example.com")]);
    assert!(config::parse(&text, &variables).is_ok());
}

#[test]
fn b38_a_bad_override_names_its_variable() {
    let folder = Folder::new();
    let variables = environment(&[
        ("GHARTS_LISTENER__MAX_RUNNERS", "many"),
        ("GHARTS_LISTENER__GHARTS__BASE_URI", "https://x"),
        ("GHARTS_LISTENER__SCALE_SETS__0__NAME", "other"),
    ]);
    let problems = config::parse(&folder.sound(), &variables).unwrap_err();
    insta::assert_snapshot!(folder.told(&problems), @r#"
        (file): GHARTS_LISTENER__SCALE_SETS__0__NAME cannot change the list scaleSets
          -> unset it and change the file: variables override single values only
        gharts.baseUri: unknown key (from the environment variable GHARTS_LISTENER__GHARTS__BASE_URI)
          -> did you mean baseUrl?
        maxRunners: expected a whole number, found the text "many" (from the environment variable GHARTS_LISTENER__MAX_RUNNERS)
          -> Most runners over all scale sets of this process. No total limit when absent.
        "#);
}

#[test]
fn b38_service_links_of_kubernetes_do_not_land_in_the_settings() {
    let folder = Folder::new();
    let links = environment(&[
        ("GHARTS_LISTENER_PORT", "tcp://10.0.0.1:8080"),
        ("GHARTS_LISTENER_SERVICE_HOST", "10.0.0.1"),
        ("GHARTS_LISTENER_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
    ]);
    let config = config::parse(&folder.sound(), &links).unwrap();
    assert_eq!(config, load(&folder.sound()).unwrap());
}

#[test]
fn b38_secrets_may_come_from_the_environment() {
    let folder = Folder::new();
    let text = folder
        .sound()
        .replace(&folder.text("privateKeyFile: DIR/app.pem"), "privateKeyEnv: APP_KEY");
    assert!(config::parse(&text, &environment(&[("APP_KEY", PEM)])).is_ok());
    let problems = config::parse(&text, &environment(&[("APP_KEY", "oops")])).unwrap_err();
    insta::assert_snapshot!(folder.told(&problems), @"
        github.auth.app.privateKeyEnv: the environment variable does not hold a PEM private key
          -> use the .pem file that GitHub offered when the App's private key was made
        ");
}

#[test]
fn b38_a_secret_written_into_the_file_is_refused_and_never_repeated() {
    let folder = Folder::new();
    let app = folder.text("app: { clientId: Iv1.abc, installationId: 12, privateKeyFile: DIR/app.pem }");
    for auth in [
        "pat: ghp_SECRET",
        "pat: { token: ghp_SECRET }",
        "pat: { tokenFile: ghp_SECRET }",
        "pat: { tokenEnv: ghp_SECRET }",
        "app: { clientId: Iv1.abc, installationId: 12, privateKeyFile: '-----BEGIN SECRET-----' }",
        "[ghp_SECRET]",
        "ghp_SECRET",
    ] {
        let told = refused(&folder, &folder.sound().replace(&app, auth));
        assert!(
            told.contains("github.auth") && !told.contains("SECRET"),
            "{auth}: {told}"
        );
    }
}

fn binary(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gharts-listener"))
        .args(arguments)
        .env_remove("GHARTS_LISTENER_CONFIG")
        .output()
        .unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn exit_64_for_a_bad_file_in_every_command_that_reads_one() {
    let folder = Folder::new();
    let bad = folder.file("config.yaml", "github: {}\n");
    for command in [&["run"][..], &["check"], &["config", "show"], &["cleanup"], &["logs"]] {
        let output = binary(&[command, &["--config", path(&bad)]].concat());
        assert_eq!(output.status.code(), Some(64), "{command:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("github.configUrl\n    is required"), "{told}");
        assert!(told.contains("scaleSets\n    is required"), "{told}");
        assert_eq!(output.stdout, b"", "{command:?}");
    }
}

/// A daemon that has refused its file is asked what it says of that.
#[test]
fn b38_status_needs_nothing_of_the_file_but_the_port() {
    let folder = Folder::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listens = |listen: &str| {
        folder.file(
            "config.yaml",
            &format!("github: {{}}\nserver: {{ listen: {listen} }}\n"),
        )
    };
    let asked = |file: &Path| {
        let output = binary(&["status", "--config", path(file)]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = asked(&listens(&format!("'{closed}'")));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&format!("cannot ask http://{closed}/")), "{told}");
    let by_variable = Environment::from([(
        "GHARTS_LISTENER__SERVER__LISTEN".to_owned(),
        "127.0.0.1:4321".to_owned(),
    )]);
    let found = config::listen(&listens("0.0.0.0:1"), &by_variable).unwrap();
    assert_eq!(found.to_string(), "127.0.0.1:4321");
    // Where the port is what is wrong, and where there is no file.
    for wrong in ["everywhere", "8080", "[1, 2]"] {
        let (code, told) = asked(&listens(wrong));
        assert_eq!(code, Some(64), "{told}");
        assert!(told.contains("server.listen") && told.contains("--url"), "{told}");
    }
    let (code, told) = asked(Path::new("/no/such/file.yaml"));
    assert_eq!(code, Some(64), "{told}");
    assert!(told.contains("cannot read") && told.contains("--url"), "{told}");
}

#[test]
fn exit_64_for_a_port_in_use_and_for_a_bad_command_line() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "server: {{ listen: '{}' }}\n{}",
        taken.local_addr().unwrap(),
        folder.sound()
    );
    let file = folder.file("config.yaml", &text);
    let output = binary(&["run", "--config", path(&file)]);
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("cannot listen on 127.0.0.1:") && told.contains("server.listen"),
        "{told}"
    );
    assert_eq!(binary(&["no-such-command"]).status.code(), Some(64));
    assert_eq!(binary(&["--help"]).status.code(), Some(0));
}

#[test]
fn config_example_and_schema_print_what_the_library_holds() {
    let example = binary(&["config", "example"]);
    assert_eq!(example.status.code(), Some(0));
    assert_eq!(String::from_utf8(example.stdout).unwrap(), config::EXAMPLE);
    let schema = binary(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema["properties"]["scaleSets"]["minItems"], 1);
    assert_eq!(
        schema["required"],
        serde_json::json!(["github", "kubernetes", "scaleSets"])
    );
}
