//! `demo` and `sim` as a person starts them: processes, real sockets, exit codes.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use serde_json::Value;

fn listener(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gharts-listener"))
        .args(arguments)
        .output()
        .unwrap()
}

fn verdict(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn nothing_leaked(verdict: &Value) -> bool {
    let leaked = verdict["leaked"].as_object().unwrap();
    leaked.len() == 6 && leaked.values().all(|n| n == 0)
}

fn demo_serves(arguments: &[&str]) {
    let output = listener(&[&["demo", "--jobs", "20", "--json"], arguments].concat());
    let verdict = verdict(&output);
    assert_eq!(output.status.code(), Some(0), "{verdict:#}");
    assert_eq!((&verdict["jobs"], &verdict["finished"]), (&20.into(), &20.into()));
    assert!(nothing_leaked(&verdict), "{verdict:#}");
    let writes = verdict["writesPerJob"].as_f64().unwrap();
    assert!((3.0..=4.0).contains(&writes), "{writes} writes per job");
    assert!(verdict["stages"]["queuedToRunning"]["p99"].as_f64().unwrap() > 0.0);
}

#[test]
fn b28_demo_serves_every_job_through_gharts_with_at_most_four_writes() {
    demo_serves(&["--gharts", "set-aware", "--flow", "github"]);
}

#[test]
fn b43_demo_binds_runners_as_it_is_told() {
    demo_serves(&["--gharts", "user", "--binding", "registration-token"]);
    demo_serves(&["--gharts", "team", "--binding", "labels-available"]);
}

#[test]
fn b5_demo_serves_every_job_through_the_scale_set_where_jobs_are_offered() {
    demo_serves(&["--provisioner", "scaleSet", "--flow", "ghes"]);
}

#[test]
fn b43_demo_says_that_the_seeds_gharts_cannot_serve_scale_sets_and_leaves_nothing() {
    demo_refuses("seed");
}

#[test]
fn b43_demo_says_that_todays_gharts_cannot_serve_scale_sets_and_leaves_nothing() {
    demo_refuses("team");
    demo_refuses("user");
}

fn demo_refuses(flavour: &str) {
    let output = listener(&["demo", "--jobs", "3", "--gharts", flavour, "--json"]);
    let verdict = verdict(&output);
    assert_eq!(output.status.code(), Some(1), "{verdict:#}");
    assert!(nothing_leaked(&verdict), "{verdict:#}");
    assert_eq!(verdict["gharts"], flavour);
    let reason = &verdict["reasons"][0];
    assert_eq!(reason["code"], "binding_unsupported");
    assert!(reason["remedy"].as_str().unwrap().contains("provisioner: scaleSet"));
}

#[test]
fn b38_sim_says_which_port_is_taken_and_what_to_do_before_it_makes_anything() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = format!("{}/sim-taken-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let output = listener(&["sim", "--dir", &dir, "--port-base", &port]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains(&port) && said.contains("--port-base"), "{said}");
    assert!(!std::path::Path::new(&dir).exists());
}

#[test]
fn the_version_tells_the_commit_and_the_features() {
    let short = String::from_utf8(listener(&["-V"]).stdout).unwrap();
    assert_eq!(short.trim(), concat!("gharts-listener ", env!("CARGO_PKG_VERSION")));
    let long = String::from_utf8(listener(&["--version"]).stdout).unwrap();
    assert!(long.starts_with(short.trim()), "{long}");
    assert!(long.contains("\ncommit ") && long.contains("\nfeatures sim"), "{long}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(listener(&["completions", shell]).stdout).unwrap();
        for word in ["check", "status", "config"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let page = String::from_utf8(listener(&["man"]).stdout).unwrap();
    assert!(
        page.contains(".TH gharts-listener 1") && page.contains("gharts\\-listener\\-check(1)"),
        "{page}"
    );
    let dir = crate::killed::scratch("man");
    let output = listener(&["man", "--dir", dir.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    for page in [
        "gharts-listener.1",
        "gharts-listener-run.1",
        "gharts-listener-config-show.1",
    ] {
        assert!(dir.join(page).exists(), "{page}");
    }
}
