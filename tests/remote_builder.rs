//! `--builder` with a real remote BuildKit, which has no access to the engine's images and names.
//!
//! `scripts/test builder` starts one and sets SWANCI_TEST_BUILDER and BUILDX_CONFIG.

use rustix::process::Signal;
use serde_json::json;

use crate::support::engine::{self, docker_text, inspect, unique};
use crate::support::swanci::{Scene, eventually, image, outcome, processes_with};

/// A scene with the remote builder.
fn scene() -> Scene {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name}: see scripts/test"));
    let mut scene = Scene::new();
    scene.swanci.set("BUILDX_CONFIG", &variable("BUILDX_CONFIG"));
    scene.swanci.set("SWANCI_BUILD_BUILDER", &variable("SWANCI_TEST_BUILDER"));
    scene
}

fn busybox(scene: &Scene, folder: &str, run: &str) {
    let run = json!(["/busybox", "sh", "-c", run]);
    scene
        .repository
        .write(&format!("{folder}/Dockerfile"), format!("FROM scratch\nCOPY busybox /busybox\nRUN {run}\n"))
        .write(
            &format!("{folder}/busybox"),
            std::fs::read("/bin/busybox").expect("apt-get install busybox-static"),
        );
    scene.repository.executable(&format!("{folder}/busybox"), true);
}

#[test]
#[ignore = "needs a remote BuildKit: scripts/test builder"]
fn a_merge_is_built_and_pushed_with_its_labels() {
    let scene = scene();
    scene.repository.image("a", "one").image("b", "two");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    let commit = scene.repository.commit("first");
    let built = scene.build(&commit, &[]).ended(0);
    for name in ["a", "b"] {
        let here = inspect(&scene.image_name(name, &format!("sha-{commit}")));
        let document = built.json();
        assert_eq!(image(&document, name)["status"], "built");
        assert_eq!(image(&document, name)["image_id"], here["Id"]);
        let labels = &here["Config"]["Labels"];
        assert_eq!(labels["org.opencontainers.image.revision"], commit.as_str());
        assert_eq!(labels["org.opencontainers.image.source"], "https://github.com/acme/shop");
        assert_eq!(labels["io.swanci.inputs"], image(&document, name)["inputs"]);
    }
    let receipt = scene.push(&built, &[]).ended(0);
    assert_eq!(outcome(&receipt.json(), "a", "1"), "moved");
    let file = scene.swanci.file("receipt.json", &receipt.stdout);
    assert_eq!(
        scene.swanci.run(&["verify", &file.display().to_string()]).ended(0).json()["outcome"],
        "intact"
    );
    // A plain manifest, not an index.
    let manifest = scene
        .registry
        .client()
        .get_manifest(&"a".parse().unwrap(), &"1".parse::<swanci::model::Tag>().unwrap())
        .unwrap()
        .unwrap();
    assert!(!manifest.media_type.contains("index") && !manifest.media_type.contains("list"), "{manifest:?}");
    let again = scene.run(&commit, &[]).ended(0).json();
    assert_eq!(image(&again, "a")["status"], "unchanged");
}

#[test]
#[ignore = "needs a remote BuildKit: scripts/test builder"]
fn a_local_base_reaches_the_builder_without_a_registry() {
    let scene = scene();
    let base = unique("base");
    let full = format!("{}/{base}:1.0", scene.registry.host());
    scene.repository.image(&base, "one");
    scene
        .repository
        .write("from/Dockerfile", format!("FROM {base}:1.0\nCOPY own /own\n"))
        .write("from/own", "o");
    scene.repository.write("full/Dockerfile", format!("FROM {full}\nCOPY own /own\n")).write("full/own", "f");
    scene
        .repository
        .write("copy/Dockerfile", format!("FROM scratch\nCOPY --from={base}:1.0 /file /copied\n"));
    let names = ["from", "full", "copy", &base];
    scene.repository.images(&names.map(|n| json!({"service_name": n, "version": "1.0"})));
    let first = scene.repository.commit("first");
    let of = |commit: &str, name: &str| scene.image_name(name, &format!("sha-{commit}"));
    let files = [("from", "/file"), ("full", "/file"), ("copy", "/copied")];
    scene.build(&first, &[]).ended(0);
    for (name, file) in files {
        assert_eq!(engine::file_of(&of(&first, name), file).unwrap(), b"one", "{name}");
    }
    assert!(!engine::has(&format!("{base}:1.0")) && !engine::has(&full), "another name was created");
    scene.run(&first, &[]).ended(0);

    // A changed base rebuilds the images, although its name is the same.
    scene.repository.write(&format!("{base}/file"), "two");
    let second = scene.repository.commit("the base changes");
    scene.run(&second, &[]).ended(0);
    for (name, file) in files {
        assert_eq!(engine::file_of(&of(&second, name), file).unwrap(), b"two", "{name}");
    }

    // An unchanged base comes from the registry: the engine lost it, and the builder may never have had it.
    docker_text(&["image", "rm", "--force", &of(&first, &base), &of(&second, &base)]);
    scene.repository.write("from/own", "changed");
    let third = scene.repository.commit("the top changes");
    let document = scene.build(&third, &["--no-cache"]).ended(0).json();
    assert_eq!(image(&document, &base)["status"], "unchanged");
    assert_eq!(image(&document, "from")["status"], "built");
    assert_eq!(engine::file_of(&of(&third, "from"), "/file").unwrap(), b"two");
    assert_eq!(engine::file_of(&of(&third, "from"), "/own").unwrap(), b"changed");
}

#[test]
#[ignore = "needs a remote BuildKit: scripts/test builder"]
fn a_secret_reaches_the_step_but_not_the_image_or_the_output() {
    const SECRET: &str = "canary-of-the-remote-builder";
    let scene = scene();
    busybox(&scene, "a", "");
    scene.repository.write(
        "a/Dockerfile",
        "FROM scratch\nCOPY busybox /busybox\nRUN --mount=type=secret,id=npm,required=true \
         [\"/busybox\",\"sh\",\"-c\",\"/busybox cat /run/secrets/npm; /busybox wc -c </run/secrets/npm >/size\"]\n",
    );
    scene.repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    scene.build(&commit, &[]).ended(1);
    scene.swanci.file("npm", SECRET);
    scene.configure("secrets = { npm = \"npm\" }");
    let built = scene.build(&commit, &["-vv"]).ended(0);
    assert!(!built.stderr.contains(SECRET) && !built.stdout.contains(SECRET), "{}", built.stderr);
    let name = scene.image_name("a", &format!("sha-{commit}"));
    assert_eq!(engine::file_of(&name, "/size").unwrap(), format!("{}\n", SECRET.len()).as_bytes());
    let bytes = engine::everything_of(&name);
    assert!(!bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "the secret is in the image");
}

#[test]
#[ignore = "needs a remote BuildKit: scripts/test builder"]
fn a_signal_also_stops_the_step_in_the_builder() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let scene = scene();
        let mark = unique("mark");
        busybox(&scene, "a", &format!(": {mark}; /busybox sleep 500; :"));
        scene.repository.images(&[json!({"service_name": "a", "version": "1"})]);
        let commit = scene.repository.commit("sleeps");
        let payload = scene.swanci.file("payload.json", scene.payload(&commit));
        let run = scene.swanci.start(&["run", &payload.display().to_string()]);
        let step = format!(": {mark};");
        eventually("the step runs", || {
            processes_with(&step).iter().any(|(_, line)| line.contains("busybox"))
        });
        run.signal(signal);
        run.wait().ended(code).saying(&["error:"]);
        eventually("the step is gone", || processes_with(&step).is_empty());
        assert!(scene.swanci.tmp_is_empty(), "temporary files are left");
        let ours = scene.swanci.tmp().display().to_string();
        assert_eq!(processes_with(&ours), [], "a child still runs");
        assert_eq!(scene.digest("a", "1"), None);
    }
}

#[test]
#[ignore = "needs a remote BuildKit: scripts/test builder"]
fn a_missing_builder_is_an_environment_failure() {
    let scene = scene();
    scene.repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    scene.build(&commit, &["--builder", "no-such-builder"]).ended(6).saying(&["no-such-builder", "hint:"]);
}
