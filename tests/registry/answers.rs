//! The results of each operation on a healthy registry.

use std::path::Path;

use swanci::cancel::Cancel;
use swanci::error::Kind;
use swanci::registry::{Credentials, Manifest, Registry, RegistryErrorKind};

use super::{image, nothing, tag};
use crate::support::proxy::{Fault, Gate, Proxy, Reply};
use crate::support::registry::{DOCKER_MANIFEST, OCI_INDEX, RegistryServer, settings};

/// A client that talks to the registry through the proxy.
fn client(proxy: &Proxy) -> Registry {
    Registry::connect(settings(&proxy.host(), None), Credentials::Anonymous, Cancel::new()).unwrap()
}

#[test]
fn a_manifest_written_under_another_tag_keeps_its_digest() {
    let server = RegistryServer::plain();
    let registry = server.client();
    let (repository, one, two) = (image("team/httpd"), tag("1.0"), tag("sha-1"));
    let pushed = server.push_sample_image("team/httpd", "1.0", &[]);

    registry.ping().unwrap();
    let head = registry.head_manifest(&repository, &one).unwrap().unwrap();
    let manifest = registry.get_manifest(&repository, &one).unwrap().unwrap();
    assert_eq!(head, pushed);
    assert_eq!((&manifest.digest, manifest.media_type.as_str()), (&pushed, DOCKER_MANIFEST));

    assert_eq!(registry.head_manifest(&repository, &two).unwrap(), None);
    assert_eq!(registry.put_manifest(&repository, &two, &manifest).unwrap(), pushed);
    assert_eq!(registry.get_manifest(&repository, &two).unwrap().unwrap(), manifest);
    // A second time, with the same result.
    assert_eq!(registry.put_manifest(&repository, &two, &manifest).unwrap(), pushed);
    assert_eq!(registry.list_tags(&repository).unwrap(), [one, two]);
}

#[test]
fn absent_content_is_none_and_not_an_error() {
    let server = RegistryServer::plain();
    let registry = server.client();
    let (repository, missing) = (image("nobody/nothing"), nothing());
    assert_eq!(registry.head_manifest(&repository, &tag("x")).unwrap(), None);
    assert_eq!(registry.get_manifest(&repository, &tag("x")).unwrap(), None);
    assert_eq!(registry.get_manifest(&repository, &missing).unwrap(), None);
    assert!(registry.list_tags(&repository).unwrap().is_empty());
}

#[test]
fn labels_are_read_through_an_index_with_attestations() {
    let server = RegistryServer::plain();
    let registry = server.client();
    let repository = image("httpd");
    server.push_sample_image("httpd", "plain", &[("io.swanci.inputs", "sha256:1"), ("b", "ü")]);
    let pushed = server.push_sample_index("httpd", "index", &[("io.swanci.inputs", "sha256:2")]);

    let plain = registry.get_manifest(&repository, &tag("plain")).unwrap().unwrap();
    let labels = registry.image_labels(&repository, &plain).unwrap();
    assert_eq!((labels["io.swanci.inputs"].as_str(), labels["b"].as_str()), ("sha256:1", "ü"));

    let index = registry.get_manifest(&repository, &tag("index")).unwrap().unwrap();
    // Without the types in Accept, 2.8 would convert the manifest, which changes the digest.
    assert_eq!((&index.digest, index.media_type.as_str()), (&pushed, OCI_INDEX));
    assert!(index.is_index());
    let labels = registry.image_labels(&repository, &index).unwrap();
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), [("io.swanci.inputs".into(), "sha256:2".into())]);
}

#[test]
fn a_manifest_whose_blobs_are_missing_is_rejected_with_the_registrys_message() {
    let server = RegistryServer::plain();
    let registry = server.client();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{}","size":2}},"layers":[]}}"#,
        nothing()
    );
    let error = registry
        .put_manifest(&image("a"), &tag("x"), &Manifest::new(text.into_bytes(), DOCKER_MANIFEST))
        .unwrap_err();
    assert!(matches!(error.kind, RegistryErrorKind::Rejected { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Failed);
    let text = error.to_string();
    assert!(text.contains(&server.host()) && text.contains("a:x"), "{text}");
    assert!(text.contains("BLOB_UNKNOWN"), "{text}");
}

/// The number of open upload sessions on the registry's disk. (2.8 keeps an empty folder of a closed session; only an open
/// one has a start time.)
fn open_uploads(storage: &Path, repository: &str) -> usize {
    let directory = storage.join("docker/registry/v2/repositories").join(repository).join("_uploads");
    let sessions = std::fs::read_dir(directory).unwrap();
    sessions.filter(|session| session.as_ref().unwrap().path().join("startedat").exists()).count()
}

#[test]
fn check_push_leaves_no_upload_behind() {
    let directory = tempfile::tempdir().unwrap();
    let server = RegistryServer::builder().storage(directory.path()).start();
    let proxy = Proxy::start(server.address);
    let registry = client(&proxy);
    let gate = Gate::default();
    proxy.always("DELETE", "/uploads/", Fault::Hold(gate.clone()));
    let asking = std::thread::spawn(move || registry.check_push(&image("a/b")));
    gate.wait_reached();
    assert_eq!(open_uploads(directory.path(), "a/b"), 1);
    gate.open();
    asking.join().unwrap().unwrap();
    assert_eq!(open_uploads(directory.path(), "a/b"), 0);
}

#[test]
fn all_pages_of_tags_are_read_and_a_cycle_is_detected() {
    let server = RegistryServer::plain();
    let proxy = Proxy::start(server.address);
    let registry = client(&proxy);
    // Registry 2.8 sends one page; registry 3 and others send several.
    let page = |tags: &str, link: &str| {
        let reply = Reply::new(200).body(format!(r#"{{"name":"a","tags":[{tags}]}}"#));
        Fault::Reply(if link.is_empty() {
            reply
        } else {
            reply.header("Link", format!("<{link}>; rel=\"next\""))
        })
    };
    proxy.on("GET", "tags/list?n=", 1, page(r#""1.0","2.0""#, "/v2/a/tags/list?last=2.0&n=2"));
    proxy.on(
        "GET",
        "last=2.0",
        1,
        page(r#""3.0","no tag!""#, "http://elsewhere.example/v2/a/tags/list?last=3.0&n=2"),
    );
    proxy.on("GET", "last=3.0", 1, page(r#""4.0""#, ""));
    assert_eq!(registry.list_tags(&image("a")).unwrap(), ["1.0", "2.0", "3.0", "4.0"].map(tag));
    proxy.heal();
    proxy.always("GET", "tags/list", page(r#""1.0""#, "/v2/a/tags/list?last=1.0&n=1"));
    let error = registry.list_tags(&image("a")).unwrap_err();
    assert_eq!(error.kind, RegistryErrorKind::Protocol, "{error:?}");
    assert!(error.to_string().contains("circle"), "{error}");
}

/// A page of tags, with a link to the next one if there is one.
fn page(tags: &str, link: &str) -> Fault {
    let reply = Reply::new(200).body(format!(r#"{{"name":"a","tags":[{tags}]}}"#));
    Fault::Reply(if link.is_empty() { reply } else { reply.header("Link", link) })
}

#[test]
fn a_registry_that_refuses_the_page_size_gets_a_request_without_it() {
    let server = RegistryServer::plain();
    for status in [400, 405, 416, 422] {
        let proxy = Proxy::start(server.address);
        let body = r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID","message":"invalid number of results requested"}]}"#;
        proxy.always("GET", "tags/list?n=1000", Fault::Reply(Reply::new(status).body(body)));
        proxy.on("GET", "tags/list", 2, page(r#""1.0""#, "<list?last=1.0&n=50>; rel=next"));
        proxy.always("GET", "list?last=1.0&n=50", page(r#""2.0""#, ""));
        assert_eq!(client(&proxy).list_tags(&image("a")).unwrap(), ["1.0", "2.0"].map(tag), "{status}");
    }
}

#[test]
fn links_are_followed_in_every_form_and_longer_cycles_are_detected() {
    let server = RegistryServer::plain();
    let proxy = Proxy::start(server.address);
    proxy.always("GET", "last=3", page(r#""4.0""#, "</v2/a/tags/list?n=1>; rel=\"first\""));
    proxy.always(
        "GET",
        "last=2",
        page(r#""3.0""#, "</x>; rel=\"prev\", </v2/a/tags/list?last=3>; title=\"a, b\"; rel=\"next\""),
    );
    proxy.always(
        "GET",
        "last=1",
        page("", "<https://r.example.org/v2/a/tags/list?last=2>;Rel=\"next last\""),
    );
    proxy.always("GET", "n=1000", page(r#""1.0""#, "</v2/a/tags/list?last=1&n=1000>; rel=\"next\""));
    // The first matching rule counts, and `last=1` matches before `n=1000`.
    assert_eq!(client(&proxy).list_tags(&image("a")).unwrap(), ["1.0", "3.0", "4.0"].map(tag));

    let proxy = Proxy::start(server.address);
    proxy.always("GET", "last=2", page("", "</v2/a/tags/list?last=1>; rel=\"next\""));
    proxy.always("GET", "tags/list", page("", "</v2/a/tags/list?last=2>; rel=\"next\""));
    let error = client(&proxy).list_tags(&image("a")).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
}

#[test]
fn the_size_of_all_pages_is_bounded() {
    let server = RegistryServer::plain();
    let proxy = Proxy::start(server.address);
    let tags = vec![format!("\"{}\"", "t".repeat(120)); 100_000].join(",");
    for n in 1..4 {
        proxy.always(
            "GET",
            &format!("last={n}"),
            page(&tags, &format!("</v2/a/tags/list?last={}>; rel=next", n + 1)),
        );
    }
    proxy.always("GET", "tags/list", page(&tags, "</v2/a/tags/list?last=1>; rel=next"));
    let error = client(&proxy).list_tags(&image("a")).unwrap_err();
    assert!(error.to_string().contains("the answer is larger than"), "{error}");
    assert!(proxy.seen().len() <= 3);
}

#[test]
fn a_registry_without_head_gets_a_get() {
    let server = RegistryServer::plain();
    let digest = server.push_sample_image("a", "1.0", &[]);
    for status in [405, 501] {
        let proxy = Proxy::start(server.address);
        proxy.always("HEAD", "/manifests/", Fault::Reply(Reply::new(status)));
        let head = client(&proxy).head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
        assert_eq!(head, digest, "{status}");
    }
}

#[test]
fn labels_platform_and_config_come_together() {
    let server = RegistryServer::plain();
    server.push_sample_index("a", "index", &[("x", "y")]);
    let registry = server.client();
    let manifest = registry.get_manifest(&image("a"), &tag("index")).unwrap().unwrap();
    assert_eq!(registry.image_labels(&image("a"), &manifest).unwrap()["x"], "y");
}

#[test]
fn only_the_title_of_an_error_page_is_shown() {
    let server = RegistryServer::plain();
    let proxy = Proxy::start(server.address);
    let body = format!("<html><head><title>Forbidden by the gateway</title></head>{}", "x".repeat(8 << 20));
    proxy.always("PUT", "/manifests/", Fault::Reply(Reply::new(403).body(body)));
    let manifest = Manifest::new(b"{}".to_vec(), DOCKER_MANIFEST);
    let error = client(&proxy).put_manifest(&image("a"), &tag("1"), &manifest).unwrap_err();
    assert!(error.to_string().ends_with("Forbidden by the gateway"), "{error}");
}
