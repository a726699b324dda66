//! The proxies of the environment, with a stub that records requests.

use std::fs;

use serde_json::json;

use crate::support::program::swanci;
use crate::support::proxy::{Proxy, Reply};

/// The names in the proxy's CONNECT requests during a verification against this registry.
fn asked_of_proxy(host: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let stub = Proxy::with_hook("127.0.0.1:1".parse().unwrap(), Box::new(|_| Some(Reply::new(403))));
    let dir = tempfile::tempdir().unwrap();
    let commit = "a".repeat(40);
    let receipt = json!({
        "schema": 1, "outcome": "succeeded", "registry": host, "payload_sha256": null,
        "change": {"forge": "github", "repository": "acme/shop", "clone_url": "https://github.com/acme/shop.git",
            "commit": commit, "branch": "main", "default_branch": "main", "pull_request": null},
        "images": [{"name": "a", "status": "built", "repository": format!("{host}/a"),
            "immutable_tag": format!("sha-{commit}"), "tags": [], "digest": format!("sha256:{}", "b".repeat(64)),
            "moved": []}],
        "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:00Z",
        "seconds": {"checkout": 0, "build": 0, "push": 0},
    });
    fs::write(dir.path().join("receipt.json"), receipt.to_string()).unwrap();
    let proxy = format!("http://user:canary-pass@{}", stub.host());
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (*name, if *value == "PROXY" { proxy.as_str() } else { value }))
        .collect();
    let ran = swanci(dir.path(), &variables, &["verify", "receipt.json"]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(!ran.err.contains("canary-pass"), "{ran:?}");
    assert_eq!(ran.err.matches("cannot connect to").count(), 1, "{ran:?}");
    let mut names: Vec<String> =
        stub.seen().into_iter().filter(|seen| seen.method == "CONNECT").map(|seen| seen.path).collect();
    names.dedup();
    names
}

#[test]
fn requests_use_the_same_proxy_as_docker() {
    const HOST: &str = "registry.corp.invalid:5000";
    for variables in [
        &[("HTTPS_PROXY", "PROXY")][..],
        &[("https_proxy", "PROXY"), ("HTTPS_PROXY", "")],
        &[
            ("HTTPS_PROXY", "PROXY"),
            ("NO_PROXY", "corp.invalid.example, other.invalid,registry.corp.invalid:443"),
        ],
    ] {
        assert_eq!(asked_of_proxy(HOST, variables), [HOST], "{variables:?}");
    }
    for variables in [
        &[("http_proxy", "PROXY")][..],
        &[("HTTPS_PROXY", "PROXY"), ("NO_PROXY", "localhost, corp.invalid")],
        &[("HTTPS_PROXY", "PROXY"), ("NO_PROXY", ""), ("no_proxy", ".corp.invalid")],
        &[("HTTPS_PROXY", "PROXY"), ("no_proxy", "registry.corp.invalid:5000")],
        &[("HTTPS_PROXY", "PROXY"), ("NO_PROXY", "*")],
    ] {
        assert!(asked_of_proxy(HOST, variables).is_empty(), "{variables:?}");
    }
    let network = [("HTTPS_PROXY", "PROXY"), ("NO_PROXY", "127.0.0.0/8")];
    assert!(asked_of_proxy("127.0.0.1:1", &network[..1]).is_empty());
}
