//! Basic auth and Bearer tokens.

use swanci::cancel::Cancel;
use swanci::error::Kind;
use swanci::registry::{Credentials, Manifest, Registry, RegistryErrorKind};

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
fn a_login_is_sent_after_the_first_challenge_and_then_with_every_request() {
    let server = RegistryServer::builder().login("swan", "pässword").start();
    let digest = server.push_sample_image("a", "1.0", &[("x", "y")]);
    let proxy = Proxy::start(server.address);
    let registry = client(&proxy.host(), server.credentials());
    registry.ping().unwrap();
    registry.check_push(&image("a")).unwrap();
    let manifest = registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert_eq!(registry.put_manifest(&image("a"), &tag("2.0"), &manifest).unwrap(), digest);
    assert_eq!(registry.image_labels(&image("a"), &manifest).unwrap()["x"], "y");
    let without = proxy.seen().iter().filter(|s| s.header("authorization").is_none()).count();
    assert_eq!(without, 1);
}

#[test]
fn a_missing_and_a_wrong_login_differ_and_both_hint_at_docker_login() {
    let server = RegistryServer::builder().login("swan", "right").start();
    for (credentials, missing) in [(Credentials::Anonymous, true), (password("swan", "wrong"), false)] {
        let error = client(&server.host(), credentials).ping().unwrap_err();
        assert!(error.kind == RegistryErrorKind::Unauthorized { anonymous: missing }, "{error:?}");
        assert_eq!(error.kind(), Kind::Environment);
        assert!(error.hint().unwrap().contains(&format!("docker login {}", server.host())));
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
}

#[test]
fn a_token_is_fetched_once_per_scope_and_a_push_token_also_pulls() {
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
    // Only the token server got the password.
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
fn an_expired_token_is_not_sent_again() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    front.expires_in(Some(0));
    let registry = client(&front.host(), password("swan", "secret"));
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert_eq!(front.given(), 2);
    // It was renewed before the registry refused it: only the first request came without one.
    assert_eq!(front.proxy.seen().iter().filter(|s| s.method == "HEAD").count(), 3);
}

#[test]
fn a_transient_fault_of_the_token_server_is_retried() {
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
    assert!(matches!(error.kind, RegistryErrorKind::Server { status: 429, .. }), "{error:?}");
    assert!(error.to_string().contains("token from 127.0.0.1"), "{error}");
    assert_eq!(tokens.count("GET", "/token"), 4);
}

#[test]
fn an_identity_token_is_exchanged_by_post() {
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
    assert!(matches!(wrong.ping().unwrap_err().kind, RegistryErrorKind::Unauthorized { anonymous: false }));
}

#[test]
fn a_user_without_write_permission_is_denied_without_a_login_hint() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("reader", "secret")));
    front.read_only("reader");
    let registry = client(&front.host(), password("reader", "secret"));
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let error = registry.check_push(&image("a")).unwrap_err();
    assert_eq!(error.kind, RegistryErrorKind::Denied, "{error:?}");
    assert_eq!(error.kind(), Kind::Failed);

    let wrong = client(&front.host(), password("reader", "wrong")).ping().unwrap_err();
    assert!(matches!(wrong.kind, RegistryErrorKind::Unauthorized { anonymous: false }), "{wrong:?}");
}

#[test]
fn a_public_repository_is_readable_without_a_login_but_not_writable() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, None);
    let registry = client(&front.host(), Credentials::Anonymous);
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let error = registry.check_push(&image("a")).unwrap_err();
    assert!(matches!(error.kind, RegistryErrorKind::Unauthorized { anonymous: true }), "{error:?}");
}

#[test]
fn a_token_server_on_another_host_gets_the_login_of_this_registry() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    // Another name of the same machine is another host.
    let tokens = Proxy::start(front.proxy.address);
    front.realm(&format!("http://localhost:{}/token", tokens.address.port()));
    let registry = client(&front.host(), password("swan", "secret"));
    registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let asked = tokens.seen();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].header("authorization").is_some_and(|v| v.starts_with("Basic ")), "{asked:?}");
    assert!(asked[0].path.contains("account=swan") && asked[0].path.contains("scope=repository%3Aa%3Apull"));
}

#[test]
fn an_unsafe_realm_is_refused_and_gets_no_request() {
    let server = RegistryServer::plain();
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    for realm in [
        "http://tokens.example.org/token",
        "http://10.0.0.1/token",
        "http://127.0.0.1@tokens.example.org/",
        "https://user:pw@tokens.example.org/token",
        "gopher://127.0.0.1/",
        "/token",
    ] {
        front.realm(realm);
        let error = client(&front.host(), password("swan", "secret")).ping().unwrap_err();
        assert_eq!(error.kind, RegistryErrorKind::RealmRefused, "{realm}: {error:?}");
        assert_eq!(error.kind(), Kind::Refused);
        let shown = realm.replace("user:pw", "***");
        assert!(error.to_string().contains(&shown) && error.hint().unwrap().contains("https"), "{error}");
    }
}

#[test]
fn basic_is_used_when_the_bearer_challenge_fails() {
    let server = RegistryServer::builder().login("swan", "secret").start();
    server.push_sample_image("a", "1.0", &[]);
    let beside = |bearer: &str| {
        let challenge = format!(r#"Bearer realm="{bearer}", Basic realm="x""#);
        Fault::Reply(Reply::new(401).header("WWW-Authenticate", challenge))
    };
    for bearer in ["http://tokens.example.org/token", "http://127.0.0.1:1/"] {
        let proxy = Proxy::start(server.address);
        proxy.on("HEAD", "/v2/a/", 1, beside(bearer));
        let registry = client(&proxy.host(), password("swan", "secret"));
        let found = registry.head_manifest(&image("a"), &tag("1.0"));
        // A token server that is down may come back; an unsafe one is skipped.
        match bearer {
            "http://127.0.0.1:1/" => assert!(found.is_ok_and(|found| found.is_some())),
            _ => assert!(found.unwrap().is_some()),
        }
    }
}

#[test]
fn both_names_of_a_token_are_read_and_an_oauth_error_is_shown() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    let tokens = Proxy::start(front.proxy.address);
    front.realm(&format!("http://{}/token", tokens.host()));
    let body = r#"{"error":"invalid_grant","error_description":"the login has ended"}"#;
    tokens.always("GET", "/token", Fault::Reply(Reply::new(400).body(body)));
    let registry = client(&front.host(), password("swan", "secret"));
    let error = registry.ping().unwrap_err();
    assert!(error.to_string().contains("the login has ended"), "{error}");
}

#[test]
fn a_blob_redirect_to_storage_is_followed_without_credentials() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[("x", "y")]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    let storage = Proxy::start(server.address);
    let registry = client(&front.host(), password("swan", "secret"));
    let manifest = registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let config = config_of(&manifest);

    let path = format!("/v2/a/blobs/{config}");
    let moved = Reply::new(307).header("Location", format!("http://{}{path}", storage.host()));
    front.proxy.always("*", &path, Fault::Reply(moved));
    let registry = client(&front.host(), password("swan", "secret"));
    assert_eq!(registry.image_labels(&image("a"), &manifest).unwrap()["x"], "y");
    let seen = storage.seen();
    assert_eq!(seen.iter().map(|s| s.method.as_str()).collect::<Vec<_>>(), ["GET"]);
    assert!(seen.iter().all(|s| s.header("authorization").is_none()), "{seen:?}");
    // The redirected request itself had the token.
    assert!(
        front.proxy.seen().iter().rev().find(|s| s.path == path).unwrap().header("authorization").is_some()
    );
}

/// A registry that redirects this path to another server.
fn redirected(server: &RegistryServer, path: &str, to: &str) -> (Proxy, Registry) {
    let proxy = Proxy::start(server.address);
    proxy.always("*", path, Fault::Reply(Reply::new(307).header("Location", to)));
    let registry = client(&proxy.host(), Credentials::Anonymous);
    (proxy, registry)
}

#[test]
fn redirects_are_followed_but_a_loop_is_an_error() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[("x", "y")]);
    let manifest = server.client().get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let config = config_of(&manifest);
    let path = format!("/v2/a/blobs/{config}");

    let second = Proxy::start(server.address);
    let signed = format!("http://{}{path}?signature=1", second.host());
    second.on("GET", &path, 1, Fault::Reply(Reply::new(302).header("Location", "/elsewhere")));
    second.on(
        "GET",
        "/elsewhere",
        1,
        Fault::Reply(Reply::new(303).header("Location", format!("{path}?second"))),
    );
    let (_first, registry) = redirected(&server, &path, &signed);
    assert_eq!(registry.image_labels(&image("a"), &manifest).unwrap()["x"], "y");
    assert_eq!(second.seen().len(), 3);

    let (_proxy, registry) = redirected(&server, &path, &path);
    let error = registry.image_labels(&image("a"), &manifest).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
}

#[test]
fn content_from_storage_is_checked_and_its_refusal_names_it() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[("x", "y")]);
    let manifest = server.client().get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let config = config_of(&manifest);
    let path = format!("/v2/a/blobs/{config}");
    let storage = Proxy::start(server.address);
    let (_proxy, registry) = redirected(&server, &path, &format!("http://{}{path}", storage.host()));
    storage.on(
        "GET",
        &path,
        1,
        Fault::Reply(Reply::new(200).body(r#"{"config":{"Labels":{"x":"forged"}}}"#)),
    );
    let error = registry.image_labels(&image("a"), &manifest).unwrap_err();
    assert_eq!(error.kind, RegistryErrorKind::DigestMismatch, "{error:?}");
    storage.on(
        "GET",
        &path,
        1,
        Fault::Reply(Reply::new(403).body("<Error><Code>AccessDenied</Code></Error>")),
    );
    let error = registry.image_labels(&image("a"), &manifest).unwrap_err();
    assert!(error.to_string().contains(&storage.host()), "{error}");
}

#[test]
fn a_redirect_of_a_tag_to_plain_http_elsewhere_is_refused() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let (_proxy, registry) = redirected(&server, "/manifests/", "http://storage.example.org/x");
    let error = registry.get_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert_eq!(error.kind, RegistryErrorKind::Protocol, "{error:?}");
    assert!(error.to_string().contains("storage.example.org"), "{error}");
    let (_proxy, registry) = redirected(&server, "/manifests/", "file:///etc/passwd");
    assert!(registry.get_manifest(&image("a"), &tag("1.0")).is_err());
}

#[test]
fn a_manifest_redirect_is_followed_without_credentials() {
    let server = RegistryServer::plain();
    let digest = server.push_sample_image("a", "1.0", &[]);
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    let other = Proxy::start(server.address);
    let path = "/v2/a/manifests/1.0";
    let moved = Reply::new(307).header("Location", format!("http://{}{path}", other.host()));
    front.proxy.always("*", path, Fault::Reply(moved));
    let registry = client(&front.host(), password("swan", "secret"));
    assert_eq!(registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap().digest, digest);
    assert!(other.seen().iter().all(|seen| seen.header("authorization").is_none()), "{:?}", other.seen());
    assert_eq!(other.seen().len(), 1);
}

/// The digest of an image's config.
fn config_of(manifest: &Manifest) -> String {
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
    manifest["config"]["digest"].as_str().unwrap().to_owned()
}
