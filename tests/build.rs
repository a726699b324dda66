//! `swanci build`: the commit, the images, the labels, and what is refused before anything is built.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

mod inputs;
mod malformed;
mod origin;
mod secrets;

use serde_json::{Value, json};

use crate::support::engine::{self, Cleanup, docker_text, inspect, unique};
use crate::support::repository::{FIRST_COMMIT, Payload, Repository};
use crate::support::swanci::{Scene, Swanci, eventually, image, processes_with};

fn labels(name: &str) -> Value {
    inspect(name)["Config"]["Labels"].clone()
}

#[test]
fn a_merge_is_built_with_exactly_the_documented_labels() {
    let scene = Scene::new();
    scene.repository.image("httpd", "one").image("web", "two");
    scene.repository.images(&[
        json!({"service_name": "httpd", "version": "1.0", "type": "Docker"}),
        json!({"service_name": "web"}),
        json!({"service_name": "box", "version": "1.0", "type": "AMI"}),
    ]);
    let commit = scene.repository.commit("first");
    let built = scene.build(&commit, &[]).ended(0);
    let document = built.json();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["change"]["commit"], commit.as_str());
    assert_eq!(document["registry"], scene.registry.host());
    let httpd = image(&document, "httpd");
    let name = scene.image_name("httpd", &format!("sha-{commit}"));
    assert_eq!(httpd["status"], "built");
    assert_eq!(httpd["repository"], format!("{}/httpd", scene.registry.host()));
    assert_eq!(httpd["immutable_tag"], format!("sha-{commit}"));
    assert_eq!(httpd["tags"], json!(["1.0"]));
    assert_eq!(httpd["image_id"], inspect(&name)["Id"]);
    assert_eq!(engine::file_of(&name, "/file").unwrap(), b"one");
    let created = jiff::Timestamp::from_second(FIRST_COMMIT).unwrap().to_string();
    assert_eq!(
        labels(&name),
        json!({
            "org.opencontainers.image.source": "https://github.com/acme/shop",
            "org.opencontainers.image.revision": commit,
            "org.opencontainers.image.version": "1.0",
            "org.opencontainers.image.title": "httpd",
            "org.opencontainers.image.created": created,
            "io.swanci.inputs": httpd["inputs"],
            "io.swanci.pull-request": "7",
        })
    );
    // Without a version, the moving tag is the branch.
    assert_eq!(image(&document, "web")["tags"], json!(["main"]));
    let skipped = image(&document, "box");
    assert_eq!(skipped["status"], "skipped");
    assert!(skipped["reason"].as_str().unwrap().contains("AMI"), "{skipped}");
    assert!(document["seconds"]["checkout"].is_number() && document["seconds"]["build"].is_number());
    assert!(scene.swanci.tmp_is_empty(), "temporary files are left");
    let again = scene.push(&built, &[]).ended(0).json();
    assert_eq!(scene.digest("httpd", "1.0").as_deref(), image(&again, "httpd")["digest"].as_str());
    // A plain manifest, not an index.
    let manifest = scene
        .registry
        .client()
        .get_manifest(&"httpd".parse().unwrap(), &"1.0".parse::<swanci::model::Tag>().unwrap())
        .unwrap()
        .unwrap();
    assert!(!manifest.media_type.contains("index") && !manifest.media_type.contains("list"), "{manifest:?}");
}

#[test]
fn a_repository_with_only_a_dockerfile_is_one_image_with_its_name() {
    let mut scene = Scene::new();
    scene.name = "Acme/Shop.Web".to_owned();
    scene.configure("");
    scene.repository.write("Dockerfile", "FROM scratch\nCOPY f /f\n").write("f", "x");
    let commit = scene.repository.commit("first");
    let document = scene.build(&commit, &[]).ended(0).json();
    assert_eq!(document["images"].as_array().unwrap().len(), 1);
    assert_eq!(image(&document, "shop.web")["tags"], json!(["main"]));
    let name = scene.image_name("shop.web", &format!("sha-{commit}"));
    assert_eq!(labels(&name)["org.opencontainers.image.version"], "main");
}

#[test]
fn image_ids_match_the_engine_and_a_missing_image_is_not_pushed() {
    let scene = Scene::new();
    scene.repository.image("a", "1").image("b", "1");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    let commit = scene.repository.commit("first");
    let built = scene.build(&commit, &[]).ended(0);
    let name = |image: &str| scene.image_name(image, &format!("sha-{commit}"));
    for image_name in ["a", "b"] {
        assert_eq!(image(&built.json(), image_name)["image_id"], inspect(&name(image_name))["Id"]);
    }
    docker_text(&["image", "rm", "--force", &name("b")]);
    scene.push(&built, &[]).ended(1).saying(&["the push of b failed", "no longer has"]);
    assert_eq!((scene.digest("a", "1"), scene.digest("b", "1")), (None, None));
}

#[test]
fn a_build_of_a_branch_gets_its_tags_and_one_of_a_commit_only_the_immutable_tag() {
    let swanci = Swanci::new();
    engine::needed();
    let repository = Repository::new();
    let name = unique("hand");
    let _cleanup = Cleanup::new(&name);
    repository.image("a", "one").images(&[json!({"service_name": name, "context": "a", "version": "2.0"})]);
    let first = repository.commit("first");
    repository.write("a/file", "two");
    let second = repository.commit("second");
    let url = repository.url();

    let document = swanci.run(&["build", "--repo", &url, "--branch", "main"]).ended(0).json();
    assert_eq!(document["change"]["commit"], second.as_str());
    assert_eq!(document["registry"], Value::Null);
    assert_eq!(document["payload_sha256"], Value::Null);
    assert_eq!(image(&document, &name)["repository"], name.as_str());
    assert_eq!(image(&document, &name)["tags"], json!(["2.0"]));

    let document = swanci.run(&["build", "--repo", &url, "--commit", &first]).ended(0).json();
    assert_eq!(image(&document, &name)["tags"], json!([]));
    assert_eq!(image(&document, &name)["immutable_tag"], format!("sha-{first}"));
    assert_eq!(engine::file_of(&format!("{name}:sha-{first}"), "/file").unwrap(), b"one");
    assert!(labels(&format!("{name}:sha-{first}")).get("io.swanci.pull-request").is_none());

    // With both, the commit must be on the branch.
    let both = ["build", "--repo", &url, "--branch", "main", "--commit", &first];
    assert_eq!(image(&swanci.run(&both).ended(0).json(), &name)["tags"], json!(["2.0"]));
    let orphan = repository.orphan();
    swanci.run(&["build", "--repo", &url, "--branch", "main", "--commit", &orphan]).ended(5);
    // Without a branch it is built without a proof of merge.
    swanci.run(&["build", "--repo", &url, "--commit", &orphan]).ended(0);
    // A relative path is relative to the current folder.
    std::fs::create_dir(swanci.work().join("x")).unwrap();
    std::os::unix::fs::symlink(repository.path(), swanci.work().join("x/repo")).unwrap();
    swanci.run(&["build", "--repo", "x/repo", "--branch", "main"]).ended(0);
}

#[test]
fn merge_squash_and_rebase_are_all_built() {
    let scene = Scene::new();
    let repository = &scene.repository;
    repository.image("a", "base").images(&[json!({"service_name": "a", "version": "1"})]);
    repository.commit("base");
    for (i, how) in ["merge", "squash", "rebase"].into_iter().enumerate() {
        let topic = format!("topic-{how}");
        repository.branch(&topic).write("a/file", how);
        repository.commit("change");
        repository.write("a/more", how);
        repository.commit("another");
        repository.checkout("main").write(&format!("other-{i}"), "the base has moved on");
        repository.commit("elsewhere");
        let landed = match how {
            "merge" => repository.merge(&topic),
            "squash" => repository.squash(&topic),
            _ => repository.rebase(&topic),
        };
        let document = scene.build(&landed, &[]).ended(0).json();
        assert_eq!(image(&document, "a")["status"], "built", "{how}");
        let name = scene.image_name("a", &format!("sha-{landed}"));
        assert_eq!(engine::file_of(&name, "/file").unwrap(), how.as_bytes());
        // The head of the pull request is on the branch only after a merge commit.
        let head = repository.git(&["rev-parse", &topic]);
        let code = if how == "merge" { 0 } else { 5 };
        scene.build(&head, &["--dry-run"]).ended(code);
    }
}

#[test]
fn a_failed_image_does_not_stop_the_others() {
    let scene = Scene::new();
    scene.repository.image("good", "1").image("last", "3");
    scene.repository.write("bad/Dockerfile", "FROM scratch\nCOPY missing /x\n");
    scene.repository.images(&["good", "bad", "last"].map(|n| json!({"service_name": n, "version": "1"})));
    let commit = scene.repository.commit("first");
    let built = scene.build(&commit, &[]).ended(1).saying(&["1 of 3 images failed: bad"]);
    let document = built.json();
    let status: Vec<_> =
        document["images"].as_array().unwrap().iter().map(|i| i["status"].as_str().unwrap()).collect();
    assert_eq!(status, ["built", "failed", "built"]);
    assert!(image(&document, "bad")["error"].as_str().unwrap().contains("missing"), "{document}");
    // An incomplete merge is not pushed.
    scene.push(&built, &[]).ended(1);
    let run = scene.run(&commit, &[]).ended(1);
    assert_eq!(image(&run.json(), "bad")["status"], "failed");
    assert_eq!(scene.digest("good", "1"), None, "a moving tag has moved");
}

#[test]
fn args_target_and_platform_reach_the_builder() {
    let scene = Scene::new();
    scene.repository.write(
        "a/Dockerfile",
        "FROM scratch AS small\nARG WHO\nLABEL who=$WHO\nCOPY one /one\nFROM small AS large\nCOPY two /two\n",
    );
    scene.repository.write("a/one", "1").write("a/two", "2");
    scene.repository.images(&[json!({"service_name": "a", "version": "1", "target": "small",
        "args": {"WHO": "me and you"}, "platform": "linux/amd64"})]);
    let commit = scene.repository.commit("first");
    scene.build(&commit, &[]).ended(0);
    let name = scene.image_name("a", &format!("sha-{commit}"));
    assert_eq!(labels(&name)["who"], "me and you");
    assert_eq!(engine::file_of(&name, "/one").unwrap(), b"1");
    assert_eq!(engine::file_of(&name, "/two"), None, "the target was ignored");
    assert_eq!(inspect(&name)["Architecture"], "amd64");
}

#[test]
fn only_requested_images_are_built_and_a_dry_run_builds_none() {
    let scene = Scene::new();
    scene.repository.image("a", "1").image("b", "2");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    let commit = scene.repository.commit("first");
    let document = scene.build(&commit, &["--dry-run"]).ended(0).json();
    assert_eq!(image(&document, "a")["status"], "planned");
    assert!(!engine::has(&scene.image_name("a", &format!("sha-{commit}"))));
    let planned = scene.build(&commit, &["--dry-run"]);
    scene.push(&planned, &[]).ended(4);
    let document = scene.build(&commit, &["--image", "b"]).ended(0).json();
    assert_eq!(document["images"].as_array().unwrap().len(), 1);
    assert_eq!(image(&document, "b")["status"], "built");
    scene.build(&commit, &["--image", "c"]).ended(2).saying(&["no image `c`", "a, b"]);
}

#[test]
fn tag_templates_support_the_documented_words() {
    let scene = Scene::new();
    scene.repository.image("a", "1").image("b", "2");
    scene.repository.images(&[
        json!({"service_name": "a", "version": "1.2",
        "tags": ["{version}", "{short}", "pr-{number}", "latest", "{branch}"]}),
        json!({"service_name": "b"}),
    ]);
    scene.repository.commit("first");
    scene.repository.branch("release/1.x");
    let commit = scene.repository.commit("on the release");
    let payload = Payload::merged("acme/shop", "release/1.x", &commit).bytes();
    let change = scene.swanci.pipe(&["evaluate", "-"], payload).ended(0).stdout;
    let document = scene.swanci.pipe(&["build", "-", "--dry-run"], change.clone()).ended(0).json();
    let short = Repository::short(&commit);
    assert_eq!(image(&document, "a")["tags"], json!(["1.2", short, "pr-7", "latest", "release-1.x"]));
    assert_eq!(image(&document, "b")["tags"], json!(["release-1.x"]));
    // Those of the command line have precedence.
    let args = ["build", "-", "--dry-run", "--tag", "x-{number}", "--tag", "{commit}"];
    let document = scene.swanci.pipe(&args, change).ended(0).json();
    assert_eq!(image(&document, "a")["tags"], json!(["x-7", commit]));
    scene.swanci.run(&["build", "--repo", ".", "--branch", "main", "--tag", "{nonsense}"]).ended(2);
}

#[test]
fn force_and_no_cache_rebuild_and_pull_fetches_the_base() {
    let scene = Scene::new();
    scene.repository.write(
        "a/Dockerfile",
        "FROM scratch\nCOPY busybox /bin/busybox\n\
        RUN [\"/bin/busybox\",\"sh\",\"-c\",\"/bin/busybox cat /proc/sys/kernel/random/uuid > /id\"]\n",
    );
    scene
        .repository
        .write("a/busybox", std::fs::read("/bin/busybox").expect("apt-get install busybox-static"));
    scene.repository.executable("a/busybox", true);
    scene.repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    let id = |args: &[&str]| {
        let document = scene.build(&commit, args).ended(0).json();
        let a = image(&document, "a");
        (a["status"].as_str().unwrap().to_owned(), a["image_id"].clone())
    };
    let (_, first) = id(&[]);
    assert_eq!(id(&[]), ("built".to_owned(), first.clone()), "the engine's cache is used");
    let (status, fresh) = id(&["--no-cache"]);
    assert_eq!(status, "built");
    assert_ne!(fresh, first, "--no-cache took the cache");
    scene.run(&commit, &[]).ended(0);
    assert_eq!(id(&[]).0, "unchanged");
    assert_eq!(id(&["--force"]).0, "built");

    // A base that is in no registry: an error with --pull; without it, the local image is used.
    let base = unique("base");
    let _cleanup = Cleanup::new(&base);
    docker_text(&["tag", &scene.image_name("a", &format!("sha-{commit}")), &format!("{base}:1")]);
    let base = format!("{}/{base}:1", scene.registry.host());
    docker_text(&["tag", &scene.image_name("a", &format!("sha-{commit}")), &base]);
    scene.repository.write("a/Dockerfile", format!("FROM {base}\nCOPY busybox /again\n"));
    let commit = scene.repository.commit("on a local base");
    scene.build(&commit, &[]).ended(0);
    scene.build(&commit, &["--force", "--pull"]).ended(1).saying(&["a: ", "not found"]);
}

#[test]
fn a_build_over_its_time_limit_is_also_stopped_in_the_engine() {
    let scene = Scene::new();
    let mark = unique("sleeps");
    scene.repository.write(
        "a/Dockerfile",
        format!(
            "FROM scratch\nLABEL mark={mark}\nCOPY busybox /bin/busybox\n\
        RUN [\"/bin/busybox\",\"sh\",\"-c\",\": {mark}; /bin/busybox sleep 500; :\"]\n"
        ),
    );
    scene.repository.write("a/busybox", std::fs::read("/bin/busybox").unwrap());
    scene.repository.executable("a/busybox", true).write("a/mark", &mark);
    scene.repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    let begun = std::time::Instant::now();
    let built = scene.build(&commit, &["--timeout", "3s"]).ended(1).saying(&["took longer", "3s"]);
    assert!(begun.elapsed() < std::time::Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(image(&built.json(), "a")["status"], "failed");
    eventually("the step is gone", || processes_with(&mark).is_empty());
    eventually("no container of the build is left", || {
        !docker_text(&["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Command}}"]).contains(&mark)
    });
    let label = format!("label=mark={mark}");
    let dangling = docker_text(&["image", "ls", "--quiet", "--filter", "dangling=true", "--filter", &label]);
    assert_eq!(dangling, "", "an image without a name is left");
    assert!(scene.swanci.tmp_is_empty());
}

#[test]
fn the_image_contains_the_commits_own_dockerignore_and_its_steps_are_cached() {
    let scene = Scene::new();
    scene.repository.write("a/Dockerfile", "FROM scratch\nCOPY . /\n");
    scene.repository.write("a/.dockerignore", "left-out\n").write("a/left-out", "x").write("a/file", "y");
    scene.repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let built = |commit: &str| {
        scene.build(commit, &["--force"]).ended(0);
        let image = scene.image_name("a", &format!("sha-{commit}"));
        let ignore = engine::file_of(&image, "/.dockerignore").expect("a .dockerignore in the image");
        assert!(String::from_utf8_lossy(&ignore).contains("left-out\n"));
        assert!(!String::from_utf8_lossy(&ignore).contains(".dockerfile."));
        assert_eq!(engine::file_of(&image, "/left-out"), None);
        inspect(&image)["RootFS"]["Layers"].clone()
    };
    let first = built(&scene.repository.commit("first"));
    scene.repository.write("README", "changed");
    assert_eq!(built(&scene.repository.commit("second")), first);
}

#[test]
fn images_are_built_in_parallel_up_to_the_limit() {
    let scene = Scene::new();
    // Each step waits until the other has begun, so they end only if two run in parallel. Four never run in parallel.
    let names = ["a", "b", "c", "d"];
    for name in names {
        scene.repository.image(name, name);
    }
    scene.repository.images(&names.map(|n| json!({"service_name": n, "version": "1"})));
    let commit = scene.repository.commit("first");
    // A docker client that counts the running builds.
    let mut scene = scene;
    let count = scene.swanci.work().join("count");
    std::fs::create_dir(&count).unwrap();
    scene.swanci.docker_that(&format!(
        "if [ $building ]; then\n  mine={0}/$$; : >$mine; ls {0} | wc -l >>{0}.log\n  \
         for i in $(seq 100); do [ $(wc -l <{0}.log) -ge 2 ] && break; sleep 0.05; done\n  \
         \"$real\" \"$@\"; code=$?; rm $mine; exit $code\nfi",
        count.display()
    ));
    scene.build(&commit, &["--jobs", "2"]).ended(0);
    let log = std::fs::read_to_string(format!("{}.log", count.display())).unwrap();
    let counts: Vec<u32> = log.lines().map(|l| l.trim().parse().unwrap()).collect();
    assert_eq!(counts.len(), 4, "{log}");
    assert_eq!(*counts.iter().max().unwrap(), 2, "{log}");
    std::fs::remove_file(format!("{}.log", count.display())).unwrap();
    scene.build(&commit, &["--jobs", "1"]).ended(0);
}

#[test]
fn a_local_base_is_built_first_and_its_change_rebuilds_the_images_that_use_it() {
    let scene = Scene::new();
    let base = unique("base");
    let _cleanup = Cleanup::new(&base);
    // Listed after the images that use it; referred to by its short and by its full name.
    let full = format!("{}/{base}:1", scene.registry.host());
    scene.repository.write("top/Dockerfile", format!("FROM {base}:1\nCOPY top /top\n")).write("top/top", "t");
    scene.repository.write("full/Dockerfile", format!("FROM {full}\nCOPY f /f\n")).write("full/f", "f");
    scene.repository.image(&base, "one");
    scene.repository.images(&["top", "full", &base].map(|n| json!({"service_name": n, "version": "1"})));
    let first = scene.repository.commit("first");
    scene.run(&first, &[]).ended(0);
    let of = |commit: &str, name: &str| scene.image_name(name, &format!("sha-{commit}"));
    for name in ["top", "full"] {
        assert_eq!(engine::file_of(&of(&first, name), "/file").unwrap(), b"one", "{name}");
    }
    assert!(!engine::has(&format!("{base}:1")), "the local name of the base is left");

    scene.repository.write(&format!("{base}/file"), "two");
    let second = scene.repository.commit("the base changes");
    let document = scene.build(&second, &[]).ended(0).json();
    for name in ["top", "full", &base] {
        assert_eq!(image(&document, name)["status"], "built", "{name}");
    }
    assert_eq!(engine::file_of(&of(&second, "top"), "/file").unwrap(), b"two");
    scene.run(&second, &[]).ended(0);

    // Only the top changes: its base comes from the registry, although the engine lost it.
    docker_text(&["image", "rm", "--force", &of(&second, &base), &of(&first, &base)]);
    scene.repository.write("top/top", "changed");
    let third = scene.repository.commit("the top changes");
    let document = scene.build(&third, &["--pull"]).ended(0).json();
    assert_eq!(image(&document, &base)["status"], "unchanged");
    assert_eq!(image(&document, "top")["status"], "built");
    assert_eq!(engine::file_of(&of(&third, "top"), "/file").unwrap(), b"two");
    assert!(!engine::has(&format!("{base}:1")));
}

#[test]
fn an_image_whose_base_failed_is_not_tried_and_a_cycle_is_refused() {
    let scene = Scene::new();
    let (base, top) = (unique("base"), unique("top"));
    scene.repository.write(&format!("{base}/Dockerfile"), "FROM scratch\nCOPY missing /x\n");
    scene.repository.write(&format!("{top}/Dockerfile"), format!("FROM {base}\n"));
    scene.repository.images(&[&top, &base].map(|n| json!({"service_name": n, "version": "1"})));
    let commit = scene.repository.commit("first");
    let document = scene.build(&commit, &[]).ended(1).json();
    assert!(image(&document, &top)["error"].as_str().unwrap().contains("base image"), "{document}");

    scene.repository.write(&format!("{base}/Dockerfile"), format!("FROM {top}\n"));
    let commit = scene.repository.commit("a circle");
    scene.build(&commit, &[]).ended(4).saying(&["circle", &base, &top]);
}

#[test]
fn a_from_with_the_images_own_name_is_the_external_image() {
    let scene = Scene::new();
    let name = unique("httpd");
    let mut cleanup = Cleanup::new(&format!("{name}:"));
    cleanup.also(&name);
    // An external image with the same name and tag.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("Dockerfile"),
        "FROM scratch\nLABEL theirs=yes\nCOPY Dockerfile /theirs\n",
    )
    .unwrap();
    docker_text(&["build", "--quiet", "--tag", &format!("{name}:1"), &dir.path().display().to_string()]);
    scene.repository.write(&format!("{name}/Dockerfile"), format!("FROM {name}:1\nCOPY f /f\n"));
    scene.repository.write(&format!("{name}/f"), "f");
    scene.repository.images(&[json!({"service_name": name, "version": "1"})]);
    let commit = scene.repository.commit("first");
    scene.build(&commit, &[]).ended(0);
    assert_eq!(labels(&scene.image_name(&name, &format!("sha-{commit}")))["theirs"], "yes");
    assert!(engine::has(&format!("{name}:1")), "the external image is gone");
}
