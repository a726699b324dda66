//! `swanci verify` against a registry whose storage loses content.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::program::{Ran, swanci};
use crate::support::registry::RegistryServer;

struct Scene {
    server: RegistryServer,
    storage: tempfile::TempDir,
    dir: tempfile::TempDir,
}

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

impl Scene {
    fn new() -> Scene {
        let storage = tempfile::tempdir().unwrap();
        let server = RegistryServer::builder().storage(storage.path()).start();
        let config = format!("[registry]\nhost = \"{}\"\nplain_http = true\n", server.host());
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("swanci.toml"), config).unwrap();
        Scene { server, storage, dir }
    }

    /// Verifies a receipt of one image under its immutable and one moving tag.
    fn verify(&self, digest: &str) -> Ran {
        let host = self.server.host();
        let receipt = json!({
            "schema": 1, "outcome": "succeeded", "registry": host, "payload_sha256": null,
            "change": {"forge": "github", "repository": "acme/shop", "clone_url": "https://github.com/acme/shop.git",
                "commit": COMMIT, "branch": "main", "default_branch": "main", "pull_request": null},
            "images": [{"name": "a", "status": "built", "repository": format!("{host}/a"),
                "immutable_tag": format!("sha-{COMMIT}"), "tags": ["1.0"], "digest": digest,
                "moved": [{"tag": "1.0", "from": null, "to": digest, "outcome": "moved"}]}],
            "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:00Z",
            "seconds": {"checkout": 0, "build": 0, "push": 0},
        });
        fs::write(self.dir.path().join("receipt.json"), receipt.to_string()).unwrap();
        swanci(self.dir.path(), &[], &["verify", "receipt.json"])
    }

    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.storage.path().join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn any_missing_content_is_drift() {
    let scene = Scene::new();
    let uploader = scene.server.uploader();
    let tag = format!("sha-{COMMIT}");
    let digest = uploader.index("a", &tag, &[("x", "y")]).to_string();
    assert_eq!(uploader.index("a", "1.0", &[("x", "y")]).to_string(), digest);
    let intact = scene.verify(&digest);
    assert_eq!((intact.code, intact.json()["outcome"].as_str()), (0, Some("intact")), "{intact:?}");

    let index = read(&scene.blob(&digest));
    let attestation = read(&scene.blob(text(&index["manifests"][0]["digest"])));
    let image = read(&scene.blob(text(&index["manifests"][1]["digest"])));
    for lost in [
        &index["manifests"][0]["digest"],
        &index["manifests"][1]["digest"],
        &attestation["config"]["digest"],
        &image["config"]["digest"],
        &image["layers"][0]["digest"],
    ] {
        let path = scene.blob(text(lost));
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let drifted = scene.verify(&digest);
        assert_eq!(drifted.code, 1, "{lost}: {drifted:?}");
        let document = drifted.json();
        assert_eq!(document["outcome"], "drifted");
        for image in document["images"].as_array().unwrap() {
            assert!(image["found"].is_null(), "{lost}: {document}");
        }
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(scene.verify(&digest).code, 0);
}

#[test]
fn a_moved_moving_tag_is_not_drift_but_a_moved_immutable_tag_is() {
    let scene = Scene::new();
    let tag = format!("sha-{COMMIT}");
    let digest = scene.server.push_sample_image("a", &tag, &[("n", "1")]).to_string();
    scene.server.push_sample_image("a", "1.0", &[("n", "2")]);
    assert_eq!(scene.verify(&digest).code, 0);
    let other = scene.server.push_sample_image("a", &tag, &[("n", "3")]);
    let drifted = scene.verify(&digest);
    assert_eq!(drifted.code, 1, "{drifted:?}");
    assert!(drifted.json()["images"].as_array().unwrap().iter().any(|i| i["found"] == other.as_str()));
}

#[test]
fn an_unreachable_registry_is_not_drift() {
    let mut scene = Scene::new();
    let digest = scene.server.push_sample_image("a", &format!("sha-{COMMIT}"), &[]).to_string();
    scene.server.stop();
    let ran = scene.verify(&digest);
    assert_eq!((ran.code, ran.out.as_str()), (6, ""), "{ran:?}");
}
