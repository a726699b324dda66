//! Tags that do not hold a readable image.

use serde_json::{Value, json};

use crate::support::proxy::{Fault, Proxy, Reply};
use crate::support::registry::{OCI_INDEX, OCI_MANIFEST, RegistryServer, Uploader, digest_of};
use crate::support::swanci::{Scene, image, outcome};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Writes a manifest whose config has this type and content.
fn with_config(uploader: &Uploader, tag: &str, media_type: &str, config: &[u8]) {
    let layer = uploader.blob("a", b"layer");
    let bytes = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": media_type, "size": config.len(), "digest": uploader.blob("a", config)},
        "layers": [{"mediaType": "application/octet-stream", "size": 5, "digest": layer}],
    }));
    uploader.manifest("a", tag, OCI_MANIFEST, &bytes.unwrap());
}

fn index(uploader: &Uploader, tag: &str, manifests: Value) {
    let bytes = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).to_string();
    uploader.manifest("a", tag, OCI_INDEX, bytes.as_bytes());
}

/// Possible contents of a tag: a description, and a function that writes it.
type Content = (&'static str, fn(&Uploader, &str, &std::path::Path));

const CONTENTS: &[Content] = &[
    ("an artifact", |up, tag, _| with_config(up, tag, "application/vnd.oci.empty.v1+json", b"{}")),
    ("a chart", |up, tag, _| {
        with_config(up, tag, "application/vnd.cncf.helm.config.v1+json", b"{\"name\":\"x\"}")
    }),
    ("a config that is not JSON", |up, tag, _| with_config(up, tag, CONFIG, b"no JSON")),
    ("a config that is a list", |up, tag, _| with_config(up, tag, CONFIG, b"[1]")),
    ("labels that are a list", |up, tag, _| with_config(up, tag, CONFIG, b"{\"config\":{\"Labels\":[1]}}")),
    ("an empty index", |up, tag, _| index(up, tag, json!([]))),
    ("an index of attestations", |up, tag, _| {
        let platform = json!({"os": "unknown", "architecture": "unknown"});
        with_config(up, "attestation", CONFIG, b"{}");
        let entry = up.manifest("a", "attestation", OCI_MANIFEST, &attestation(up));
        let size = attestation(up).len();
        index(
            up,
            tag,
            json!([{"mediaType": OCI_MANIFEST, "digest": entry, "size": size, "platform": platform}]),
        );
    }),
    ("a missing config", |up, tag, storage| {
        let config = format!("{{\"gone\":\"{tag}\"}}");
        with_config(up, tag, CONFIG, config.as_bytes());
        let hex = digest_of(config.as_bytes()).as_str()["sha256:".len()..].to_owned();
        let blob = storage.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex);
        std::fs::remove_dir_all(blob).unwrap();
    }),
];

fn attestation(up: &Uploader) -> Vec<u8> {
    let config = up.blob("a", b"{}");
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [],
        "config": {"mediaType": CONFIG, "size": 2, "digest": config}})
    .to_string()
    .into_bytes()
}

/// A scene with access to the registry's files, and its first two commits.
fn scene(storage: &std::path::Path) -> (Scene, String, String) {
    let mut scene = Scene::new();
    scene.registry = RegistryServer::builder().storage(storage).start();
    scene.images.also(&scene.registry.host());
    scene.configure("");
    scene.repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    let first = scene.repository.commit("first");
    scene.repository.write("a/file", "2");
    let second = scene.repository.commit("second");
    (scene, first, second)
}

#[test]
fn an_unreadable_image_counts_as_absent_except_under_the_commits_own_tag() {
    for (what, put) in CONTENTS {
        let storage = tempfile::tempdir().unwrap();
        let (scene, first, second) = scene(storage.path());
        let (uploader, own) = (scene.registry.uploader(), format!("sha-{second}"));
        put(&uploader, &own, storage.path());
        let there = scene.digest("a", &own).unwrap();
        for args in [&[][..], &["--force"]] {
            let ran = scene.run(&second, args);
            assert_eq!(ran.code, 1, "{what} {args:?}: {}", ran.stderr);
            ran.saying(&[&own, "never overwritten", "delete its manifest"]);
        }
        assert_eq!(scene.digest("a", &own), Some(there), "{what}");
        assert_eq!(scene.digest("a", "1"), None, "{what}");

        let storage = tempfile::tempdir().unwrap();
        let (scene, ..) = self::scene(storage.path());
        for args in [&[][..], &["--force"]] {
            let uploader = scene.registry.uploader();
            scene.repository.write("a/file", format!("{args:?}"));
            let commit = scene.repository.commit("next");
            put(&uploader, "1", storage.path());
            if args.is_empty() {
                put(&uploader, &format!("sha-{second}"), storage.path());
                put(&uploader, &format!("sha-{first}"), storage.path());
            }
            let ran = scene.run(&commit, args);
            assert_eq!(ran.code, 0, "{what} {args:?}: {}", ran.stderr);
            assert_eq!(outcome(&ran.json(), "a", "1"), "moved", "{what}");
        }
    }
}

#[test]
fn an_invalid_manifest_counts_as_absent_except_under_the_commits_own_tag() {
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for (what, reply) in [
        (
            "schema 1",
            Reply::new(200).header("Content-Type", schema1).body(r#"{"schemaVersion":1,"fsLayers":[]}"#),
        ),
        ("a page", Reply::new(200).header("Content-Type", "text/html").body("<html>")),
        ("no type and no digest", Reply::new(200).body("{}")),
        ("no JSON", Reply::new(200).header("Content-Type", OCI_MANIFEST).body("no JSON")),
        (
            "another digest",
            Reply::new(200)
                .header("Content-Type", OCI_MANIFEST)
                .header("Docker-Content-Digest", format!("sha256:{}", "0".repeat(64)))
                .body("{}"),
        ),
    ] {
        let (mut scene, commit) = Scene::with_one_image();
        let proxy = Proxy::start(scene.registry.address);
        scene.images.also(&proxy.host());
        scene.configure_for(&proxy.host(), "");
        let own = format!("sha-{commit}");
        for method in ["GET", "HEAD"] {
            proxy.always(method, &format!("/v2/a/manifests/{own}"), Fault::Reply(reply.clone()));
        }
        for args in [&[][..], &["--force"]] {
            let ran = scene.run(&commit, args);
            assert_eq!(ran.code, 1, "{what} {args:?}: {}", ran.stderr);
            ran.saying(&[&own, "never overwritten", "delete its manifest"]);
        }
        assert_eq!(scene.digest("a", "1"), None, "{what}");
        proxy.heal();
        for method in ["GET", "HEAD"] {
            proxy.on(method, "/v2/a/manifests/1", 1, Fault::Reply(reply.clone()));
        }
        let ran = scene.run(&commit, &[]);
        assert_eq!(ran.code, 0, "{what}: {}", ran.stderr);
        let receipt = ran.json();
        assert_eq!(outcome(&receipt, "a", "1"), "moved", "{what}");
        assert_eq!(scene.digest("a", "1").as_deref(), image(&receipt, "a")["digest"].as_str());
    }
}
