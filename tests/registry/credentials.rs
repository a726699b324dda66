//! Docker's own config file and credential helpers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use secrecy::ExposeSecret;
use swanci::cancel::{Cancel, Stop};
use swanci::error::Kind;
use swanci::registry::{Credentials, Login, Registry, RegistryError, RegistryErrorKind};

use super::{image, tag};
use crate::support::registry::RegistryServer;

/// The credentials, or the error.
fn find(directory: &Path, host: &str) -> Result<Credentials, RegistryError> {
    let login = Login::Docker(Some(directory.to_owned()));
    match login.look_up(&host.parse().unwrap(), &Cancel::new()).unwrap() {
        (Credentials::Anonymous, Some(error)) => Err(error),
        (credentials, _) => Ok(credentials),
    }
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
fn a_stored_login_is_found_under_every_form_of_the_name() {
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

/// `swan:secret` and `old:stale` in docker's encoding.
const SWAN: &str = "c3dhbjpzZWNyZXQ=";
const OLD: &str = "b2xkOnN0YWxl";

#[test]
fn every_form_of_config_that_docker_accepts_is_accepted() {
    let host = "r.example.org";
    for (text, found) in [
        ("", "anonymous"),
        ("  \n", "anonymous"),
        ("null", "anonymous"),
        ("{}", "anonymous"),
        (r#"{"auths":null}"#, "anonymous"),
        (r#"{"auths":null,"credHelpers":null,"credsStore":null}"#, "anonymous"),
        (r#"{"auths":{"r.example.org":null}}"#, "anonymous"),
        (r#"{"auths":{"r.example.org":{}}}"#, "anonymous"),
        (r#"{"auths":{"r.example.org":{"auth":""}}}"#, "anonymous"),
        (r#"{"auths":{"r.example.org":{"auth":"","identitytoken":""}}}"#, "anonymous"),
        (r#"{"auths":{"r.example.org":{"auth":"!!!"}}}"#, "anonymous"),
        // user without a password
        (r#"{"auths":{"r.example.org":{"auth":"c3dhbjo="}}}"#, "anonymous"),
        (r#"{"auths":{"other.example.org":{"auth":"!!!"},"r.example.org":{"auth":"SWAN"}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":"SWAN"}},"credsStore":""}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":"SWAN"}},"credsStore":null,"credHelpers":{}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":"SWAN","identitytoken":""}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":"SWAN","email":null}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":"c3dhbjpz\nZWNyZXQ=\n"}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":" c3dhbjpzZWNyZXQ "}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":"c3dhbjpzZWNyZXQAAA=="}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"username":"swan","password":"secret"}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":"SWAN","username":"x","password":"y"}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":"SWAN","identitytoken":"refresh"}}}"#, "<token>:refresh"),
        (r#"{"auths":{"https://r.example.org/v1/":{"auth":"SWAN"}}}"#, "swan:secret"),
        (r#"{"auths":{"https://r.example.org/v2/":{"auth":"SWAN"}}}"#, "swan:secret"),
        (r#"{"auths":{"http://r.example.org":{"auth":"SWAN"}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org/team":{"auth":"SWAN"}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org/v1/":{"auth":"SWAN"}}}"#, "swan:secret"),
        (
            r#"{"auths":{"http://r.example.org":{"auth":"OLD"},"r.example.org":{"auth":"SWAN"}}}"#,
            "swan:secret",
        ),
        (r#"{"auths":{"https://r.example.org:5000/v1/":{"auth":"SWAN"}}}"#, "anonymous"),
        (r#"{"AUTHS":{"r.example.org":{"Auth":"SWAN"}}}"#, "swan:secret"),
        (r#"{"auths":{"r.example.org":{"auth":"SWAN"}}} trailing"#, "swan:secret"),
        (
            r#"{"HttpHeaders":{"X-Meta":"x"},"psFormat":1,"plugins":[],"auths":{"r.example.org":{"auth":"SWAN"}}}"#,
            "swan:secret",
        ),
        (
            r#"{"credHelpers":{"r.example.org":""},"credsStore":"absent","auths":{"r.example.org":{"auth":"SWAN"}}}"#,
            "swan:secret",
        ),
        // A failing helper does not hide a login in the file.
        (
            r#"{"credsStore":"absent-on-this-machine","auths":{"r.example.org":{"auth":"SWAN"}}}"#,
            "swan:secret",
        ),
        ("\u{feff}{\"auths\":{\"r.example.org\":{\"auth\":\"SWAN\"}}}", "swan:secret"),
    ] {
        let directory = config(&text.replace("SWAN", SWAN).replace("OLD", OLD));
        let credentials = find(directory.path(), host).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(shown(&credentials), found, "{text}");
    }
    for key in ["https://index.docker.io/v1/", "index.docker.io", "docker.io"] {
        let directory = config(&format!(r#"{{"auths":{{"{key}":{{"auth":"{SWAN}"}}}}}}"#));
        assert_eq!(shown(&find(directory.path(), "docker.io").unwrap()), "swan:secret", "{key}");
    }
}

#[test]
fn no_file_means_anonymous_and_a_broken_one_is_named() {
    let empty = tempfile::tempdir().unwrap();
    assert!(find(empty.path(), "r.example.org").unwrap().is_anonymous());
    for broken in ["{\"auths\":", "[]", "<html>", r#"{"auths":[]}"#, r#"{"credsStore":{}}"#] {
        let error = find(config(broken).path(), "r.example.org").unwrap_err();
        assert_eq!(error.kind, RegistryErrorKind::DockerConfig);
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}

#[test]
fn a_failing_credential_store_does_not_matter_without_a_challenge() {
    let server = RegistryServer::plain();
    let digest = server.push_sample_image("a", "1.0", &[]);
    let directory = config(r#"{"credsStore":"absent-on-this-machine"}"#);
    let login = || Login::Docker(Some(directory.path().to_owned()));
    let registry = Registry::connect(server.settings(), login(), Cancel::new()).unwrap();
    assert_eq!(registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap(), digest);
    // With a challenge, the store is the cause of the error.
    let server = RegistryServer::builder().login("swan", "secret").start();
    let registry = Registry::connect(server.settings(), login(), Cancel::new()).unwrap();
    let error = registry.head_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert_eq!(error.kind, RegistryErrorKind::CredentialHelper, "{error:?}");
    assert_eq!(error.kind(), Kind::Environment);
    assert!(error.to_string().contains("docker-credential-absent-on-this-machine"), "{error}");
}

#[test]
fn a_password_does_not_show_when_credentials_are_printed() {
    let directory = config(r#"{"auths":{"r.example.org":{"auth":"c3dhbjpzZWNyZXQ="}}}"#);
    let text = format!("{:?}", find(directory.path(), "r.example.org").unwrap());
    assert!(text.contains("swan") && !text.contains("secret\""), "{text}");
    assert!(!text.contains(r#""secret"#), "{text}");
}

/// Helpers are found by PATH, which a test must not change for other tests in the process: this test runs itself in another
/// process with a different PATH.
#[test]
fn a_credential_helper_without_a_login_differs_from_one_that_fails() {
    const TEST: &str =
        "registry::credentials::a_credential_helper_without_a_login_differs_from_one_that_fails";
    if let Some(helpers) = std::env::var_os("SWANCI_TEST_HELPERS") {
        return with_helpers(Path::new(&helpers));
    }
    let helpers = tempfile::tempdir().unwrap();
    for (name, script) in [
        // Helpers get the registry's name on standard input, and print JSON.
        ("good", r#"printf '{"ServerURL":"%s","Username":"swan","Secret":"for-%s"}' "$host" "$host""#),
        ("token", r#"printf '{"Username":"<token>","Secret":"refresh"}'"#),
        ("empty", "echo 'credentials not found in native keychain'; exit 1"),
        (
            "canary",
            r#"env | grep -q -e SWANCI_ -e canary && exit 3; [ "$AWS_ROLE_ARN" = role ] || exit 4; printf '{"Username":"swan","Secret":"seen"}'"#,
        ),
        ("html", "echo '<html>hidden'"),
        ("nothing", "printf '{}'"),
        ("broken", "echo 'pin entry failed' >&2; echo '{\"Secret\":\"hidden\"}'; exit 1"),
        // Waits, with a child process, like a helper that prompts on a terminal.
        ("hung", r#"sleep 300 & echo "$$ $!" > "$0.tmp"; mv "$0.tmp" "$0.waits"; wait"#),
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
        .env("SWANCI_SECRET", "canary-secret")
        .env("SWANCI_GIT_TOKEN", "canary-token")
        .env("AWS_ROLE_ARN", "role")
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
    let stale = format!(r#"{{"auths":{{"r.example.org:5000":{{"auth":"{OLD}"}}}},"credsStore":"good"}}"#);
    assert_eq!(shown(&ask(&stale).unwrap()), "swan:for-r.example.org:5000");
    let url = r#"{"credHelpers":{"https://r.example.org:5000/v1/":"good"}}"#;
    assert_eq!(shown(&ask(url).unwrap()), "swan:for-r.example.org:5000");
    assert_eq!(shown(&store("nothing").unwrap()), "anonymous");
    let error = store("html").unwrap_err().to_string();
    assert!(error.contains("docker-credential-html") && !error.contains("hidden"), "{error}");
    assert_eq!(shown(&store("canary").unwrap()), "swan:seen");
    assert_eq!(store("../sh").unwrap_err().kind, RegistryErrorKind::CredentialHelper);
    assert_eq!(store("missing").unwrap_err().kind, RegistryErrorKind::CredentialHelper);

    // A waiting helper does not delay a stop.
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
    let stopped =
        Login::Docker(Some(directory.path().to_owned())).look_up(&"r.example.org".parse().unwrap(), &cancel);
    stopper.join().unwrap();
    assert_eq!(stopped.unwrap_err(), Stop::Interrupted);
    // A stop ends the whole process group.
    let group = fs::read_to_string(&waits).unwrap();
    assert!(!group.trim().is_empty());
    for process in group.split_whitespace() {
        assert!(!is_running(process), "{process} still runs");
    }
}

/// `false` for a zombie.
fn is_running(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}
