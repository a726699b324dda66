//! Docker's own config file and credential helpers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use secrecy::ExposeSecret;
use swanci::cancel::{Cancel, Stop};
use swanci::registry::{Credentials, CredentialsError};

fn find(directory: &Path, host: &str) -> Result<Credentials, CredentialsError> {
    Credentials::from_docker(directory, &host.parse().unwrap(), &Cancel::new())
}

fn config(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("config.json"), text).unwrap();
    directory
}

fn shown(credentials: &Credentials) -> String {
    match credentials {
        Credentials::Anonymous => "anonymous".to_owned(),
        Credentials::Password { username, password } => format!("{username}:{}", password.expose_secret()),
        Credentials::IdentityToken(token) => format!("<token>:{}", token.expose_secret()),
    }
}

#[test]
fn what_docker_login_left_is_found_under_every_form_of_the_name() {
    // "swan:secret"
    let auth =
        |key: &str| format!(r#"{{"auths":{{"{key}":{{"auth":"c3dhbjpzZWNyZXQ="}}}},"detachKeys":"ctrl-q"}}"#);
    for (key, host) in [
        ("r.example.org", "r.example.org"),
        ("r.example.org:443", "r.example.org:443"),
        ("r.example.org:443", "r.example.org"),
        ("r.example.org", "r.example.org:443"),
        ("https://r.example.org", "r.example.org"),
        ("https://r.example.org/v2/", "r.example.org:443"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
    ] {
        let directory = config(&auth(key));
        assert_eq!(shown(&find(directory.path(), host).unwrap()), "swan:secret", "{key} for {host}");
    }
    let directory = config(&auth("r.example.org:5000"));
    for host in ["r.example.org", "r.example.org:443", "r.example.org:5001", "a.r.example.org:5000"] {
        assert!(find(directory.path(), host).unwrap().is_anonymous(), "{host}");
    }
}

#[test]
fn no_file_and_no_entry_mean_nobody_and_a_broken_file_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    assert!(find(empty.path(), "r.example.org").unwrap().is_anonymous());
    assert!(find(config("{}").path(), "r.example.org").unwrap().is_anonymous());
    assert!(
        find(config(r#"{"auths":{"r.example.org":{}}}"#).path(), "r.example.org").unwrap().is_anonymous()
    );
    let broken = config("{\"auths\":");
    let error = find(broken.path(), "r.example.org").unwrap_err();
    assert!(matches!(error, CredentialsError::Config { .. }), "{error:?}");
    assert!(error.to_string().contains("config.json"), "{error}");
}

#[test]
fn a_password_does_not_show_when_credentials_are_printed() {
    let directory = config(r#"{"auths":{"r.example.org":{"auth":"c3dhbjpzZWNyZXQ="}}}"#);
    let text = format!("{:?}", find(directory.path(), "r.example.org").unwrap());
    assert!(text.contains("swan") && !text.contains("secret\""), "{text}");
    assert!(!text.contains(r#""secret"#), "{text}");
}

/// The helpers of this machine are found by PATH, which a test must not change for the others of its process: this one
/// runs itself again in a process with a PATH of its own.
#[test]
fn a_credential_helper_is_asked_and_its_silence_and_failure_are_told_apart() {
    const TEST: &str =
        "registry::credentials::a_credential_helper_is_asked_and_its_silence_and_failure_are_told_apart";
    if let Some(helpers) = std::env::var_os("SWANCI_TEST_HELPERS") {
        return with_helpers(Path::new(&helpers));
    }
    let helpers = tempfile::tempdir().unwrap();
    for (name, script) in [
        // Helpers get the registry's name on standard input, and answer with JSON.
        ("good", r#"printf '{"ServerURL":"%s","Username":"swan","Secret":"for-%s"}' "$host" "$host""#),
        ("token", r#"printf '{"Username":"<token>","Secret":"refresh"}'"#),
        ("empty", "echo 'credentials not found in native keychain'; exit 1"),
        ("broken", "echo 'pin entry failed' >&2; echo '{\"Secret\":\"hidden\"}'; exit 1"),
        // Waits for somebody at a terminal, until the test lets it go.
        (
            "hung",
            r#"touch "$0.waits"; n=0; while [ -e "$0.waits" ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done"#,
        ),
    ] {
        let file = helpers.path().join(format!("docker-credential-{name}"));
        fs::write(&file, format!("#!/bin/sh\nread -r host\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", helpers.path().display(), std::env::var("PATH").unwrap());
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env("PATH", path)
        .env("SWANCI_TEST_HELPERS", helpers.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

fn with_helpers(helpers: &Path) {
    let ask = |text: &str| find(config(text).path(), "r.example.org:5000");
    let store =
        |name: &str| ask(&format!(r#"{{"auths":{{"r.example.org:5000":{{}}}},"credsStore":"{name}"}}"#));
    assert_eq!(shown(&store("good").unwrap()), "swan:for-r.example.org:5000");
    assert_eq!(shown(&store("token").unwrap()), "<token>:refresh");
    assert_eq!(shown(&store("empty").unwrap()), "anonymous");
    let own = r#"{"credHelpers":{"r.example.org:5000":"good"},"credsStore":"broken"}"#;
    assert_eq!(shown(&ask(own).unwrap()), "swan:for-r.example.org:5000");
    let error = store("broken").unwrap_err().to_string();
    assert!(error.contains("pin entry failed") && !error.contains("hidden"), "{error}");
    assert!(matches!(store("missing").unwrap_err(), CredentialsError::Helper { .. }));

    // One that waits for somebody who is not there does not hold a stop.
    let waits = helpers.join("docker-credential-hung.waits");
    let cancel = Cancel::new();
    let (stopping, seen) = (cancel.clone(), waits.clone());
    let stopper = std::thread::spawn(move || {
        for _ in 0..300 {
            if seen.exists() {
                return stopping.stop(Stop::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the helper was not started");
    });
    let directory = config(r#"{"credsStore":"hung"}"#);
    let stopped = Credentials::from_docker(directory.path(), &"r.example.org".parse().unwrap(), &cancel);
    stopper.join().unwrap();
    fs::remove_file(waits).unwrap();
    assert_eq!(stopped.unwrap_err(), CredentialsError::Stopped(Stop::Interrupted));
}
