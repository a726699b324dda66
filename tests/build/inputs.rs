//! Which changes rebuild an image, and where an unchanged one is found.

use serde_json::{Value, json};

use crate::support::repository::Repository;
use crate::support::swanci::{Scene, image};

fn spec() -> Value {
    json!({"service_name": "a", "version": "1", "args": {"X": "1"}, "target": "one", "platform": "linux/amd64",
           "context": "a", "dockerfile": "Dockerfile"})
}

fn scene() -> Scene {
    let scene = Scene::new();
    scene.repository.write("a/Dockerfile", "FROM scratch AS one\nCOPY . /\nFROM one AS two\n");
    scene.repository.write("a/file", "1").write("a/run.sh", "x").write("README", "1");
    scene.repository.images(&[spec()]);
    scene
}

fn status(scene: &Scene, commit: &str) -> String {
    let document = scene.build(commit, &["--dry-run"]).ended(0).json();
    image(&document, "a")["status"].as_str().unwrap().to_owned()
}

#[test]
fn every_input_triggers_a_rebuild_and_other_changes_do_not() {
    let scene = scene();
    let first = scene.repository.commit("first");
    scene.run(&first, &[]).ended(0);
    let with = |key: &str, value: Value| {
        let mut spec = spec();
        spec[key] = value;
        spec
    };
    type Change<'a> = (&'a str, &'a str, Box<dyn Fn() -> &'a Repository + 'a>);
    let r = &scene.repository;
    let cases: Vec<Change<'_>> = vec![
        ("planned", "a file's content", Box::new(|| r.write("a/file", "2"))),
        ("planned", "a new file", Box::new(|| r.write("a/new", ""))),
        ("planned", "a removed file", Box::new(|| r.remove("a/file"))),
        ("planned", "an executable bit", Box::new(|| r.executable("a/run.sh", true))),
        ("planned", "a link", Box::new(|| r.symlink("a/link", "file"))),
        (
            "planned",
            "the Dockerfile",
            Box::new(|| {
                r.write("a/Dockerfile", "FROM scratch AS one\nCOPY . /\nLABEL x=y\nFROM one AS two\n")
            }),
        ),
        ("planned", "an arg", Box::new(|| r.images(&[with("args", json!({"X": "2"}))]))),
        ("planned", "the target", Box::new(|| r.images(&[with("target", json!("two"))]))),
        ("planned", "the platform", Box::new(|| r.images(&[with("platform", json!("linux/arm64"))]))),
        (
            "planned",
            "the version",
            Box::new(|| {
                r.images(&[json!({"service_name": "a", "version": "2", "tags": ["1"], "args": {"X": "1"},
                "target": "one", "platform": "linux/amd64"})])
            }),
        ),
        ("unchanged", "a file outside the context", Box::new(|| r.write("README", "2"))),
        ("unchanged", "only a message", Box::new(|| r)),
        (
            "unchanged",
            "a mode bit that git does not see",
            Box::new(|| {
                use std::os::unix::fs::PermissionsExt as _;
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(r.file("a/file"), mode).unwrap();
                r
            }),
        ),
        ("unchanged", "other tags", Box::new(|| r.images(&[with("tags", json!(["1", "x"]))]))),
        (
            "unchanged",
            "another image beside it",
            Box::new(|| {
                r.image("b", "1");
                r.images(&[spec(), json!({"service_name": "b", "version": "1"})])
            }),
        ),
    ];
    for (expected, what, change) in cases {
        r.reset(&first);
        r.git(&["clean", "--quiet", "-fdx"]);
        change();
        let commit = r.commit(what);
        assert_eq!(status(&scene, &commit), expected, "{what}");
    }
}

#[test]
fn an_unchanged_image_is_found_under_its_own_tag_the_moving_tag_and_the_parents_tag() {
    let scene = scene();
    let r = &scene.repository;
    let uploader = scene.registry.uploader();
    let first = r.commit("first");
    let document = scene.build(&first, &["--dry-run"]).ended(0).json();
    let inputs = image(&document, "a")["inputs"].as_str().unwrap().to_owned();
    r.write("README", "2");
    let second = r.commit("second");
    let own = format!("sha-{second}");
    let parent = format!("sha-{first}");
    let older = "0123456789012345678901234567890123456789";
    let labels = [
        ("io.swanci.inputs", inputs.as_str()),
        ("org.opencontainers.image.source", "https://github.com/acme/shop"),
        ("org.opencontainers.image.revision", older),
    ];
    let confirmed = format!("sha-{older}");
    for (tag, n) in [("1", "3"), (parent.as_str(), "2"), (own.as_str(), "1")] {
        let digest = uploader.image("a", tag, &[&labels[..], &[("n", n)]].concat());
        if tag == "1" {
            // A moving tag alone is not enough.
            let document = scene.build(&second, &["--dry-run"]).ended(0).json();
            assert_eq!(image(&document, "a")["status"], "planned");
            uploader.image("a", &confirmed, &[&labels[..], &[("n", n)]].concat());
        }
        let document = scene.build(&second, &[]).ended(0).json();
        let a = image(&document, "a");
        assert_eq!(a["status"], "unchanged", "{tag}");
        // The documented order of lookup is the reverse of the order in which the tags are added here.
        assert_eq!(a["digest"], digest.as_str(), "{tag}");
        assert!(a.get("image_id").is_none());
    }
    // An image with other inputs under the first tag does not hide the right one under a later tag.
    uploader.image("a", &own, &[("io.swanci.inputs", "sha256:other")]);
    let document = scene.build(&second, &[]).ended(0).json();
    assert_eq!(image(&document, "a")["status"], "unchanged");
    // An index works too.
    let digest = uploader.index("a", &own, &labels);
    let document = scene.build(&second, &[]).ended(0).json();
    assert_eq!(image(&document, "a")["digest"], digest.as_str());
}

#[test]
fn an_unchanged_image_is_tagged_without_uploads_and_keeps_its_labels() {
    let scene = scene();
    let first = scene.repository.commit("first");
    let receipt = scene.run(&first, &[]).ended(0).json();
    let digest = image(&receipt, "a")["digest"].clone();
    scene.repository.write("README", "2");
    let second = scene.repository.commit("second");
    let proxy = crate::support::proxy::Proxy::start(scene.registry.address);
    // Through a proxy that records all requests; docker itself sends none.
    scene.configure_for(&proxy.host(), "");
    let receipt = scene.run(&second, &[]).ended(0).json();
    let a = image(&receipt, "a");
    assert_eq!((a["status"].as_str(), &a["digest"]), (Some("unchanged"), &digest));
    assert_eq!(a["moved"][0]["outcome"], "already");
    assert_eq!(scene.digest("a", &format!("sha-{second}")).as_deref(), digest.as_str());
    assert_eq!(proxy.count("POST", "/blobs/"), 0, "a layer was uploaded");
    assert_eq!(proxy.count("PUT", "/manifests/"), 1);
    let client = scene.registry.client();
    let repository = "a".parse().unwrap();
    let manifest =
        client.get_manifest(&repository, &format!("sha-{second}").parse::<swanci::model::Tag>().unwrap());
    let labels = client.image_labels(&repository, &manifest.unwrap().unwrap()).unwrap();
    assert_eq!(labels["org.opencontainers.image.revision"], first);
}

#[test]
fn without_a_registry_nothing_is_unchanged() {
    let scene = scene();
    scene.repository.commit("first");
    let name = crate::support::engine::unique("local");
    let _cleanup = crate::support::engine::Cleanup::new(&name);
    scene.repository.images(&[json!({"service_name": name, "context": "a", "version": "1"})]);
    scene.repository.commit("second");
    scene.swanci.config("");
    for _ in 0..2 {
        let args = ["build", "--repo", &scene.repository.url(), "--branch", "main"];
        let document = scene.swanci.run(&args).ended(0).json();
        assert_eq!(image(&document, &name)["status"], "built");
    }
}
