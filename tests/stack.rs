//! Scripts that test TLS with real clients, the compose stack and the Debian package with the binary under test. Each prints
//! its claims.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

use std::path::Path;
use std::process::Command;

/// Runs `scripts/NAME --binary <the swanci under test>`; all of its claims must hold.
fn every_claim_holds(name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
    // The limit is long enough for a slow machine. TERM comes first, so that the script can clean up.
    let output = Command::new("timeout")
        .args(["--kill-after=60", "1800", "sh", "-c", r#"exec "$0" "$@" 2>&1"#])
        .arg(&script)
        .args(["--binary", env!("CARGO_BIN_EXE_swanci")])
        .output()
        .expect("coreutils' timeout runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "scripts/{name}: {}\n{said}", output.status);
    assert_eq!(said.lines().last(), Some("all claims hold"), "scripts/{name} ended early:\n{said}");
}

/// `scripts/test-tls`: docker and swanci with checked certificates: with the CA, without it, and with a wrong one.
#[test]
fn a_client_connects_only_with_the_registrys_ca() {
    every_claim_holds("test-tls");
}

/// `scripts/test-stack`: compose up, a signed delivery, the images pulled by name, compose down.
#[test]
fn the_compose_stack_builds_an_image_that_a_client_pulls() {
    every_claim_holds("test-stack");
}

/// `scripts/test-deb`: lintian, installed, started, removed and purged in a container.
#[test]
fn the_debian_package_installs_runs_and_uninstalls() {
    every_claim_holds("test-deb");
}
