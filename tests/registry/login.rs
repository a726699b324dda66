//! Basic auth and Bearer tokens.

use swanci::cancel::Cancel;
use swanci::error::Kind;
use swanci::registry::{Credentials, Registry, RegistryError};

use super::{image, tag};
use crate::support::proxy::{Fault, Proxy, Reply};
use crate::support::registry::{RegistryServer, settings};
use crate::support::token_server::TokenRegistry;

fn password(user: &str, password: &str) -> Credentials {
    Credentials::Password { username: user.to_owned(), password: password.to_owned().into() }
}

fn client(host: &str, credentials: Credentials) -> Registry {
    Registry::connect(settings(host, None), credentials, Cancel::new()).unwrap()
}

#[test]
fn a_login_is_sent_once_it_is_asked_for_and_then_with_every_request() {
    let server = RegistryServer::builder().login("swan", "pässword").start();
    let digest = server.push_sample_image("a", "1.0", &[("x", "y")]);
    let proxy = Proxy::start(server.address);
    let registry = client(&proxy.host(), server.credentials());
    registry.ping().unwrap();
    registry.check_push(&image("a")).unwrap();
    let manifest = registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert_eq!(registry.put_manifest(&image("a"), &tag("2.0"), &manifest).unwrap(), digest);
    assert_eq!(registry.image_labels(&image("a"), &manifest).unwrap().labels["x"], "y");
    let without = proxy.seen().iter().filter(|s| s.header("authorization").is_none()).count();
    assert_eq!(without, 1);
}

#[test]
fn a_missing_and_a_wrong_login_are_told_apart_and_end_in_docker_login() {
    let server = RegistryServer::builder().login("swan", "right").start();
    for (credentials, missing) in [(Credentials::Anonymous, true), (password("swan", "wrong"), false)] {
        let error = client(&server.host(), credentials).ping().unwrap_err();
        assert!(
            matches!(&error, RegistryError::Unauthorized { anonymous, .. } if *anonymous == missing),
            "{error:?}"
        );
        assert_eq!(error.kind(), Kind::Environment);
        assert!(error.hint().unwrap().contains(&format!("docker login {}", server.host())));
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
}

#[test]
fn a_token_is_fetched_once_for_each_scope_and_one_to_write_reads_too() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    let registry = client(&front.host(), password("swan", "secret"));
    for _ in 0..3 {
        registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    }
    assert_eq!(front.given(), 1);
    let manifest = registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    registry.put_manifest(&image("a"), &tag("2.0"), &manifest).unwrap();
    registry.check_push(&image("a")).unwrap();
    registry.get_manifest(&image("a"), &tag("2.0")).unwrap().unwrap();
    assert_eq!(front.given(), 2);
    // The password went to the token server alone.
    for seen in front.proxy.seen() {
        let basic = seen.header("authorization").is_some_and(|v| v.starts_with("Basic"));
        assert_eq!(basic, seen.path.starts_with("/token?"), "{seen:?}");
    }
}

#[test]
fn a_stale_token_is_renewed_once() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    let registry = client(&front.host(), password("swan", "secret"));
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    front.revoke();
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert_eq!(front.given(), 2);
}

#[test]
fn a_token_that_says_it_is_over_is_not_sent_again() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    front.expires_in(Some(0));
    let registry = client(&front.host(), password("swan", "secret"));
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert_eq!(front.given(), 2);
    // It was renewed before it was refused: only the very first request came without one.
    assert_eq!(front.proxy.seen().iter().filter(|s| s.method == "HEAD").count(), 3);
}

#[test]
fn a_token_server_that_stumbles_is_asked_again() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    let tokens = Proxy::start(front.proxy.address);
    front.realm(&format!("http://{}/token", tokens.host()));
    tokens.on("GET", "/token", 1, Fault::Reply(Reply::new(502)));
    tokens.on("GET", "/token", 2, Fault::CutAfter(20));
    let registry = client(&front.host(), password("swan", "secret"));
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert_eq!(tokens.count("GET", "/token"), 3);

    front.revoke();
    tokens.always("GET", "/token", Fault::Reply(Reply::new(429).header("Retry-After", "3600")));
    let error = registry.head_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert!(matches!(error, RegistryError::TooManyRequests { .. }), "{error:?}");
    assert!(error.to_string().contains("token from 127.0.0.1"), "{error}");
    assert_eq!(tokens.count("GET", "/token"), 4);
}

#[test]
fn an_identity_token_is_traded_by_post() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    front.refresh_token("refresh-me");
    let registry = client(&front.host(), Credentials::IdentityToken("refresh-me".to_owned().into()));
    registry.ping().unwrap();
    registry.check_push(&image("a")).unwrap();
    assert_eq!(front.proxy.count("GET", "/token"), 0);
    assert_eq!(front.proxy.count("POST", "/token"), 2);
    let wrong = client(&front.host(), Credentials::IdentityToken("another".to_owned().into()));
    assert!(matches!(wrong.ping().unwrap_err(), RegistryError::Unauthorized { anonymous: false, .. }));
}

#[test]
fn who_may_read_but_not_write_is_denied_and_not_sent_to_log_in() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("reader", "secret")));
    front.read_only("reader");
    let registry = client(&front.host(), password("reader", "secret"));
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let error = registry.check_push(&image("a")).unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Failed);

    let wrong = client(&front.host(), password("reader", "wrong")).ping().unwrap_err();
    assert!(matches!(wrong, RegistryError::Unauthorized { anonymous: false, .. }), "{wrong:?}");
}

#[test]
fn without_a_login_a_public_repository_is_read_and_a_write_wants_one() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, None);
    let registry = client(&front.host(), Credentials::Anonymous);
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let error = registry.check_push(&image("a")).unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { anonymous: true, .. }), "{error:?}");
}

#[test]
fn a_hostile_realm_is_refused_and_never_hears_of_us() {
    let server = RegistryServer::plain();
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    let evil = Proxy::with_hook(server.address, Box::new(|_| Some(Reply::new(200).body(r#"{"token":"t"}"#))));
    let port = evil.address.port();
    for realm in [
        format!("http://localhost:{port}/token"), // this machine by another name: not the registry's host
        format!("http://127.0.0.2:{port}/token"),
        format!("http://127.0.0.1@localhost:{port}/"),
        "https://auth.docker.io/token".to_owned(),
        "https://tokens.example.org/token".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
    ] {
        front.realm(&realm);
        let error = client(&front.host(), password("swan", "secret")).ping().unwrap_err();
        assert!(matches!(error, RegistryError::RealmRefused { .. }), "{realm}: {error:?}");
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains(&realm), "{error}");
    }
    assert_eq!(evil.connections(), 0);

    // The same host by name becomes good when it is allowed by name.
    front.realm(&format!("http://localhost:{port}/token"));
    let mut allowed = settings(&front.host(), None);
    allowed.token_hosts = vec!["localhost".to_owned()];
    let registry = Registry::connect(allowed, password("swan", "secret"), Cancel::new()).unwrap();
    assert!(registry.ping().is_err()); // its token is not known here; but it was asked
    assert_eq!(evil.count("GET", "/token"), 1);
}

#[test]
fn a_blob_is_followed_to_its_storage_without_credentials() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[("x", "y")]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    let storage = Proxy::start(server.address);
    let registry = client(&front.host(), password("swan", "secret"));
    let manifest = registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let config = registry.image_labels(&image("a"), &manifest).unwrap().digest;

    let path = format!("/v2/a/blobs/{config}");
    let moved = Reply::new(307).header("Location", format!("http://{}{path}", storage.host()));
    front.proxy.always("*", &path, Fault::Reply(moved));
    assert_eq!(registry.image_labels(&image("a"), &manifest).unwrap().labels["x"], "y");
    let seen = storage.seen();
    assert_eq!(seen.iter().map(|s| s.method.as_str()).collect::<Vec<_>>(), ["GET"]);
    assert!(seen.iter().all(|s| s.header("authorization").is_none()), "{seen:?}");
    // The request that was redirected did carry the token.
    assert!(
        front.proxy.seen().iter().rev().find(|s| s.path == path).unwrap().header("authorization").is_some()
    );
}

#[test]
fn a_manifest_is_not_followed_anywhere() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let (proxy, other) = (Proxy::start(server.address), Proxy::start(server.address));
    let moved = Reply::new(307).header("Location", format!("http://{}/v2/a/manifests/1.0", other.host()));
    proxy.always("*", "/manifests/", Fault::Reply(moved));
    let registry = client(&proxy.host(), Credentials::Anonymous);
    let error = registry.get_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains("redirect"), "{error}");
    assert_eq!(other.connections(), 0);
}
