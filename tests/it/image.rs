//! The image, without a container engine: its whole content is made by the script that the Dockerfile calls, and the
//! daemon runs inside of it as the image's user, with nothing else at hand.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{chart, killed::scratch};

fn made(name: &str) -> std::path::PathBuf {
    let root = scratch(name).join("root");
    let mut script = Command::new(chart::root().join("image/root.sh"));
    script.arg(env!("CARGO_BIN_EXE_gharts-listener")).arg(&root);
    chart::succeeded("image/root.sh", &script.output().unwrap());
    root
}

/// With a TLS server, certificates, and DNS for `localhost`: the demonstration uses all of what the daemon does.
#[test]
fn in_the_images_root_and_as_its_user_the_daemon_serves_jobs() {
    let root = made("image");
    let mut chroot = Command::new("chroot");
    chroot
        .args(["--userspec=65532:65532"])
        .arg(&root)
        .arg("/usr/local/bin/gharts-listener");
    let output = chroot
        .args(["demo", "--jobs", "3", "--json"])
        .env_clear()
        // Where `chroot` itself is; nothing of it is inside.
        .env("PATH", "/usr/sbin:/usr/bin")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Operation not permitted") && said.contains("chroot") {
        println!("SKIPPED: not root, so the image's content was not run");
        return;
    }
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(output.status.code(), Some(0), "{verdict:#}");
    assert_eq!(verdict["finished"], 3);
}

/// A shell or a package manager in it would be somebody's tool.
#[test]
fn the_image_holds_the_binary_its_libraries_certificates_and_a_user_and_nothing_else() {
    let root = made("image-content");
    let found = Command::new("find")
        .arg(&root)
        .args(["-type", "f", "-printf", "%P\\n"])
        .output()
        .unwrap();
    let found = chart::succeeded("find", &found);
    let mut rest: Vec<&str> = found.lines().filter(|file| !file.contains(".so")).collect();
    rest.sort_unstable();
    let expected = [
        "etc/group",
        "etc/nsswitch.conf",
        "etc/passwd",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/local/bin/gharts-listener",
    ];
    assert_eq!(rest, expected);
    assert!(found.contains("libc.so.6"));
}

#[test]
fn the_dockerfile_ends_with_that_root_and_an_unprivileged_user() {
    let text = fs::read_to_string(chart::root().join("Dockerfile")).unwrap();
    let last = text.split("\nFROM ").last().unwrap();
    assert!(
        last.starts_with("scratch\nCOPY --from=build /image /\nUSER 65532:65532\n"),
        "{last}"
    );
    assert!(text.contains("image/root.sh target/dist/gharts-listener /image"));
    // The toolchain is one, wherever it is named.
    let toolchain = fs::read_to_string(chart::root().join("rust-toolchain.toml")).unwrap();
    let version = toolchain.split('"').nth(1).unwrap();
    assert!(text.contains(&format!("FROM rust:{version}-")), "{version}");
}
