//! Present, absent and unreadable content.

use swanci::cancel::Cancel;
use swanci::error::Kind;
use swanci::registry::{Credentials, Registry, RegistryErrorKind};

use super::{image, tag};
use crate::support::proxy::{Fault, Proxy, Reply};
use crate::support::registry::{
    DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, RegistryServer, digest_of, settings,
};
use crate::support::token_server::TokenRegistry;

fn password(user: &str, password: &str) -> Credentials {
    Credentials::Password { username: user.to_owned(), password: password.to_owned().into() }
}

fn client(host: &str, credentials: Credentials) -> Registry {
    Registry::connect(settings(host, None), credentials, Cancel::new()).unwrap()
}

/// Every read of an absent repository returns nothing.
fn nothing_is_there(registry: &Registry) {
    let new = image("new/app");
    assert_eq!(registry.head_manifest(&new, &tag("1.0")).unwrap(), None);
    assert_eq!(registry.get_manifest(&new, &tag("1.0")).unwrap(), None);
    assert_eq!(registry.get_manifest(&new, &super::nothing()).unwrap(), None);
    assert!(registry.list_tags(&new).unwrap().is_empty());
}

#[test]
fn a_read_that_is_denied_to_a_valid_login_counts_as_absent() {
    let server = RegistryServer::builder().login("swan", "secret").start();
    for (status, body) in [
        // Quay, Nexus
        (
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"access to the requested resource is not authorized"}]}"#,
        ),
        // GitLab, Harbor, Google
        (403, r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#),
        // Artifactory
        (403, r#"{"errors":[{"status":403,"message":"Forbidden"}]}"#),
        (400, r#"{"errors":[{"code":"NAME_INVALID","message":"invalid repository name"}]}"#),
        (404, r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository not found"}]}"#),
        (403, "<html><title>Forbidden</title></html>"),
    ] {
        let proxy = Proxy::start(server.address);
        proxy.always("*", "/v2/new/", Fault::Reply(Reply::new(status).body(body)));
        nothing_is_there(&client(&proxy.host(), password("swan", "secret")));
        // The login is checked once.
        assert!(proxy.count("GET", "/v2/") - proxy.count("GET", "/v2/new/") <= 2, "{:?}", proxy.seen());

        // A wrong or missing login is an error.
        if status == 404 {
            continue;
        }
        let error = client(&proxy.host(), password("swan", "wrong")).list_tags(&image("other"));
        assert!(
            matches!(error.as_ref().unwrap_err().kind, RegistryErrorKind::Unauthorized { anonymous: false }),
            "{error:?}"
        );
        let error = client(&proxy.host(), Credentials::Anonymous).head_manifest(&image("other"), &tag("1"));
        assert!(
            matches!(error.as_ref().unwrap_err().kind, RegistryErrorKind::Unauthorized { anonymous: true }),
            "{error:?}"
        );
    }
}

#[test]
fn a_token_that_is_denied_for_an_unknown_repository_counts_as_absent() {
    let server = RegistryServer::plain();
    let front = TokenRegistry::start(server.address, Some(("swan", "secret")));
    let tokens = Proxy::start(front.proxy.address);
    front.realm(&format!("http://{}/token", tokens.host()));
    let denied = r#"{"errors":[{"code":"DENIED","message":"access forbidden"}]}"#;
    tokens.always("GET", "repository%3Anew", Fault::Reply(Reply::new(403).body(denied)));
    nothing_is_there(&client(&front.host(), password("swan", "secret")));
    let error = client(&front.host(), password("swan", "wrong")).head_manifest(&image("new/app"), &tag("1"));
    assert!(
        matches!(
            error.as_ref().unwrap_err().kind,
            RegistryErrorKind::Denied | RegistryErrorKind::Unauthorized { .. }
        ),
        "{error:?}"
    );
}

#[test]
fn a_listed_tag_never_counts_as_absent() {
    let server = RegistryServer::builder().login("swan", "secret").start();
    let digest = server.push_sample_image("a", "sha-1", &[]);
    let proxy = Proxy::start(server.address);
    // Like a scanner's quarantine.
    proxy.always("*", "/v2/a/manifests/", Fault::Reply(Reply::new(403).body("blocked by policy")));
    let registry = client(&proxy.host(), password("swan", "secret"));
    let refused = [
        registry.head_manifest(&image("a"), &tag("sha-1")).map(drop),
        registry.get_manifest(&image("a"), &tag("sha-1")).map(drop),
        registry.get_manifest(&image("a"), &digest).map(drop),
    ];
    for answer in refused {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        assert!(error.to_string().contains("it exists, but reading it is denied"), "{error}");
    }
    assert_eq!(registry.head_manifest(&image("a"), &tag("sha-2")).unwrap(), None);
}

#[test]
fn a_registry_without_a_login_may_deny_an_unknown_name_too() {
    let server = RegistryServer::plain();
    let proxy = Proxy::start(server.address);
    let body = r#"{"errors":[{"code":"NAME_INVALID","message":"no such project"}]}"#;
    proxy.always("*", "/v2/new/", Fault::Reply(Reply::new(400).body(body)));
    nothing_is_there(&client(&proxy.host(), Credentials::Anonymous));
}

#[test]
fn an_unreadable_image_differs_from_a_failing_registry() {
    let server = RegistryServer::plain();
    let (uploader, registry, repository) = (server.uploader(), server.client(), image("a"));
    let unreadable = |name: &str| {
        let manifest = registry.get_manifest(&repository, &tag(name)).unwrap().unwrap();
        let error = registry.image_labels(&repository, &manifest).unwrap_err();
        assert_eq!(error.kind(), Kind::Failed, "{name}: {error}");
        manifest
    };
    // A config that is not JSON.
    let config = uploader.blob("a", b"not json");
    let text = |config: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":8}},"layers":[]}}"#
        )
    };
    uploader.manifest("a", "artifact", OCI_MANIFEST, text(config.as_str()).as_bytes());
    assert_eq!(unreadable("artifact").media_type, OCI_MANIFEST);

    // An index with a missing child.
    let child = text(config.as_str());
    let child = uploader.manifest("a", digest_of(child.as_bytes()).as_str(), OCI_MANIFEST, child.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{child}","size":1}}]}}"#
    );
    uploader.manifest("a", "index", OCI_INDEX, index.as_bytes());
    let proxy = Proxy::start(server.address);
    proxy.always("GET", child.as_str(), Fault::Reply(Reply::new(404)));
    let behind = client(&proxy.host(), Credentials::Anonymous);
    let manifest = behind.get_manifest(&repository, &tag("index")).unwrap().unwrap();
    let error = behind.image_labels(&repository, &manifest).unwrap_err();
    assert_eq!(error.kind, RegistryErrorKind::Rejected { status: 404 });
    assert!(error.to_string().contains("not found"), "{error}");
    // An error of the registry is not an unreadable image.
    proxy.heal();
    proxy.always("GET", child.as_str(), Fault::Reply(Reply::new(503)));
    let error = behind.image_labels(&repository, &manifest).unwrap_err();
    assert_eq!(error.kind(), Kind::Environment, "{error}");
}

#[test]
fn a_manifest_of_an_old_format_is_read_as_bytes() {
    let server = RegistryServer::plain();
    let proxy = Proxy::start(server.address);
    const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    // Its digest does not cover the signatures, so it differs from that of the bytes.
    let said = super::nothing();
    let reply = Reply::new(200)
        .header("Content-Type", SCHEMA_1)
        .header("Docker-Content-Digest", said.as_str())
        .body(r#"{"schemaVersion":1,"signatures":[]}"#);
    proxy.always("*", "/v2/a/manifests/", Fault::Reply(reply));
    let registry = client(&proxy.host(), Credentials::Anonymous);
    let manifest = registry.get_manifest(&image("a"), &tag("1")).unwrap().unwrap();
    assert_eq!((&manifest.digest, manifest.media_type.as_str()), (&said, SCHEMA_1));
    let error = registry.image_labels(&image("a"), &manifest).unwrap_err();
    assert!(error.to_string().contains("prettyjws") && error.kind() == Kind::Failed, "{error}");
}

#[test]
fn a_registry_that_accepts_only_oci_manifests_is_reported_with_a_hint() {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[]);
    let proxy = Proxy::start(server.address);
    let registry = client(&proxy.host(), Credentials::Anonymous);
    let manifest = registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert_eq!(manifest.media_type, DOCKER_MANIFEST);
    let body = r#"{"errors":[{"code":"MANIFEST_INVALID","message":"manifest invalid"}]}"#;
    for status in [400, 415] {
        proxy.heal();
        proxy.always("PUT", "/manifests/", Fault::Reply(Reply::new(status).body(body)));
        let error = registry.put_manifest(&image("a"), &tag("2.0"), &manifest).unwrap_err();
        assert_eq!(error.kind, RegistryErrorKind::OciOnly, "{error:?}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("containerd") && hint.contains("docker2s2"), "{hint}");
    }
}
