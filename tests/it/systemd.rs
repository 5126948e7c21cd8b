//! `systemd/`: the unit as systemd's own tools judge it, and the script that makes a daemon's rights in a cluster.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{chart, killed::scratch};

/// Tenfold of what `systemd-analyze security` may say: 2.0.
const EXPOSURE_TENTHS: &str = "20";

fn unit() -> String {
    fs::read_to_string(chart::root().join("systemd/gharts-listener.service")).unwrap()
}

/// What a tool says of the unit, and whether it is content. None where there is no systemd.
fn judged(arguments: &[&str], unit: &str) -> Option<(bool, String)> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("SKIPPED: no systemd-analyze: b41 was not tried (the unit's hardening)");
        return None;
    }
    let folder = scratch(&format!("systemd-{}", arguments[0]));
    let file = folder.join("gharts-listener.service");
    // The program must be there to be verified.
    fs::write(
        &file,
        unit.replace("/usr/local/bin/gharts-listener", env!("CARGO_BIN_EXE_gharts-listener")),
    )
    .unwrap();
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(&file)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr]
        .map(|text| String::from_utf8(text).unwrap())
        .concat();
    Some((output.status.success(), said))
}

#[test]
fn b41_systemd_finds_nothing_wrong_with_the_unit() {
    let Some((content, said)) = judged(&["verify", "--man=no"], &unit()) else {
        return;
    };
    assert!(content && said.is_empty(), "{said}");
    let misspelt = unit().replace("Type=notify", "Type=nofity");
    assert!(judged(&["verify", "--man=no"], &misspelt).unwrap().1.contains("nofity"));
}

#[test]
fn b41_the_unit_is_exposed_by_at_most_2_0() {
    let threshold = format!("--threshold={EXPOSURE_TENTHS}");
    let arguments = ["security", "--offline=true", "--no-pager", &threshold];
    let Some((content, said)) = judged(&arguments, &unit()) else {
        return;
    };
    let verdict = said
        .lines()
        .rfind(|line| line.contains("exposure level"))
        .unwrap_or(&said);
    assert!(content, "{verdict}");
    println!("{verdict}");
    let open = unit()
        .replace("ProtectSystem=strict\n", "")
        .replace("CapabilityBoundingSet=\n", "");
    assert!(!judged(&arguments, &open).unwrap().0, "the judge has a limit");
}

/// What B37 and B41 promise, in systemd's words.
#[test]
fn b37_b41_the_unit_gives_time_to_end_watches_the_loop_reloads_and_keeps_secrets_apart() {
    let unit = unit();
    let settings: Vec<&str> = unit.lines().collect();
    for setting in [
        "Type=notify",
        "TimeoutStopSec=75",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "LoadCredential=secret:/etc/gharts-listener/secrets",
        "RestartPreventExitStatus=64",
        "User=gharts-listener",
    ] {
        assert!(settings.contains(&setting), "{setting}");
    }
    assert!(settings.iter().any(|line| line.starts_with("WatchdogSec=")));
}

#[test]
fn b41_sysusers_and_tmpfiles_make_the_user_and_a_folder_that_root_alone_reads() {
    if Command::new("systemd-sysusers").arg("--version").output().is_err() {
        println!("SKIPPED: no systemd-sysusers: the user and folders of b41 were not tried");
        return;
    }
    let root = scratch("systemd-root");
    fs::create_dir(root.join("etc")).unwrap();
    for (tool, name) in [("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")] {
        let mut command = Command::new(tool);
        if name == "tmpfiles" {
            command.arg("--create");
        }
        command.arg(format!("--root={}", root.display()));
        command.arg(chart::root().join(format!("systemd/gharts-listener.{name}")));
        chart::succeeded(tool, &command.output().unwrap());
    }
    let users = fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(users.contains("gharts-listener:x:"), "{users}");
    let secrets = fs::metadata(root.join("etc/gharts-listener/secrets")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&secrets.permissions()) & 0o777,
        0o700
    );
}

#[test]
fn b35_the_script_for_machines_gives_the_charts_rights_and_no_more_and_takes_them_back() {
    let Some(cluster) = chart::cluster::Cluster::start("systemd-rights") else {
        return;
    };
    let script = chart::root().join("systemd/kubeconfig.sh");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&script);
        let output = command
            .args(arguments)
            .env("KUBECONFIG", cluster.kubeconfig())
            .output()
            .unwrap();
        (
            chart::succeeded("kubeconfig.sh", &output),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (kubeconfig, said) = run(&["--duration", "2h"]);
    assert!(said.contains("expires on 20"), "{said}");
    let file = cluster.dir.join("machine.kubeconfig");
    fs::write(&file, kubeconfig).unwrap();
    let may = |verb: &str, resource: &str, namespace: &str| {
        let file = file.to_str().unwrap();
        let asked = [
            "--kubeconfig",
            file,
            "auth",
            "can-i",
            verb,
            resource,
            "--namespace",
            namespace,
        ];
        Command::new("kubectl").args(asked).output().unwrap().status.success()
    };
    assert!(may("create", "pods", "runners") && may("update", "leases/gharts-listener", "gharts-listener"));
    assert!(!may("get", "secrets", "runners") && !may("create", "pods", "gharts-listener"));

    let values = chart::values("first-job");
    let objects = cluster.helm.template(&["--values", &values]);
    for role in objects.of_kind("Role") {
        let namespace = role["metadata"]["namespace"].as_str().unwrap();
        let made = [
            "--namespace",
            namespace,
            "get",
            "role",
            "gharts-listener",
            "--output",
            "json",
        ];
        let made: Value = serde_json::from_str(&cluster.kubectl(&made)).unwrap();
        assert_eq!(
            chart::rendered::comparable(made["rules"].as_array().unwrap()),
            chart::rendered::comparable(role["rules"].as_array().unwrap())
        );
    }
    run(&["--delete"]);
    assert_eq!(cluster.everything(), Vec::<String>::new());
}
