//! Only builds of the same repository use a local base, and only by its immutable name.

use rustix::process::Signal;
use serde_json::json;

use super::{Two, busybox, content, import, names_in_engine};
use crate::support::engine::{Cleanup, docker_text, inspect, unique};
use crate::support::swanci::{Scene, Swanci, eventually, image};

/// All forms in which a Dockerfile may refer to the image `NAME:1`, with its build argument.
const FORMS: &[(&str, &str)] = &[
    ("FROM NAME:1", ""),
    ("FROM NAME", ""),
    ("FROM HOST/NAME:1", ""),
    ("from NAME:1 as x\nfrom x", ""),
    ("FROM --platform=linux/amd64 NAME:1", ""),
    ("FROM \"NAME:1\"", ""),
    ("ARG I=NAME\nARG V=1\nFROM ${I}:${V:-2}", ""),
    ("ARG I\nFROM $I", "NAME:1"),
    ("ARG I=elsewhere\nFROM ${I:?unset}", "NAME:1"),
    ("FROM \\\n# a comment\n\n  NAME:1 \\\n  AS x", ""),
    ("# escape=`\nFROM `\r\n NAME:1\r\n", ""),
    ("FROM NAME:1 AS NAME\nFROM NAME", ""),
    ("FROM scratch\nCOPY --from=NAME:1 /file /file", ""),
    ("FROM scratch\ncopy --chown=0:0 --from=NAME:1 /file /", ""),
    ("FROM scratch\nCOPY --from=\\\nNAME:1 /file /file", ""),
    ("FROM scratch AS x\nCOPY --from=NAME:1 /file /file\nFROM scratch\nCOPY --from=0 /file /file", ""),
    ("FROM BOX\nRUN --mount=type=bind,from=NAME:1,target=/m COPY", ""),
    ("FROM BOX\nRUN --mount=target=/m,From=\"NAME:1\" --mount=type=tmpfs,target=/t COPY", ""),
];

#[test]
fn every_form_of_a_local_bases_name_resolves_to_the_repositorys_own_image() {
    let two = Two::new();
    let (name, scene) = (unique("shared"), &two.scene);
    let _cleanup = Cleanup::new(&name);
    import(&format!("{name}:1"), "the engine's");
    import(&format!("{name}:latest"), "the engine's");
    import(&format!("{}/{name}:1", scene.registry.host()), "the engine's");
    let mut list = vec![json!({"service_name": "box", "version": "1"})];
    for repository in [&scene.repository, &two.other] {
        repository.write("box/Dockerfile", "FROM scratch\nCOPY busybox /bin/busybox\n");
        busybox(repository, "box");
    }
    for (i, (form, argument)) in FORMS.iter().enumerate() {
        let fill = |text: &str| {
            let copy = "[\"/bin/busybox\",\"cp\",\"/m/file\",\"/file\"]";
            let text =
                text.replace("COPY\n", copy).replace("BOX", "box:1").replace("HOST", &scene.registry.host());
            let text =
                if let Some(mount) = text.strip_suffix("COPY") { format!("{mount}{copy}") } else { text };
            text.replace("NAME", &name)
        };
        let folder = format!("form{i}");
        for repository in [&scene.repository, &two.other] {
            repository.write(&format!("{folder}/Dockerfile"), format!("{}\n", fill(form)));
        }
        let args = if argument.is_empty() { json!({}) } else { json!({"I": fill(argument)}) };
        list.push(json!({"service_name": folder, "version": "1", "args": args}));
    }
    two.other.images(&list);
    scene.repository.image(&name, "its own");
    list.push(json!({"service_name": name, "version": "1"}));
    scene.repository.images(&list);
    let (ours, theirs) = (scene.repository.commit("ours"), two.other.commit("theirs"));
    two.configure("", "namespace = \"other\"");
    let before = names_in_engine(&[&name]);

    // In parallel, each with a separate state directory.
    let elsewhere = two.elsewhere();
    let other = two.start_other(&elsewhere, &theirs, &["--no-cache"]);
    scene.run(&ours, &["--no-cache"]).ended(0);
    other.wait().ended(0);
    for (i, (form, _)) in FORMS.iter().enumerate() {
        let own = scene.image_name(&format!("form{i}"), &format!("sha-{ours}"));
        let other = scene.image_name(&format!("other/form{i}"), &format!("sha-{theirs}"));
        assert_eq!(content(&own, "/file"), "its own", "{form}");
        assert_eq!(content(&other, "/file"), "the engine's", "{form}");
    }
    assert_eq!(names_in_engine(&[&name]), before);
    for line in names_in_engine(&[&scene.registry.host()]) {
        let planted = line.contains(&format!("/{name}:1 "));
        assert!(
            planted || line.contains(&format!(":sha-{ours} ")) || line.contains(&format!(":sha-{theirs} ")),
            "{line}"
        );
    }
}

#[test]
fn two_repositories_that_build_the_same_name_in_parallel_use_their_own_bases() {
    let two = Two::new();
    let name = unique("shared");
    let _cleanup = Cleanup::new(&name);
    for (repository, text) in [(&two.scene.repository, "ours"), (&two.other, "theirs")] {
        repository.image(&name, text).write("top/Dockerfile", format!("FROM {name}:1\n"));
        repository.images(&[
            json!({"service_name": "top", "version": "1"}),
            json!({"service_name": name, "version": "1"}),
        ]);
    }
    two.configure("namespace = \"a\"", "namespace = \"b\"");
    let (ours, theirs) = (two.scene.repository.commit("ours"), two.other.commit("theirs"));
    let elsewhere = two.elsewhere();
    // With one state directory, then with two.
    for (swanci, args) in [(&two.scene.swanci, &[][..]), (&elsewhere, &["--force", "--no-cache"][..])] {
        let other = two.start_other(swanci, &theirs, args);
        two.scene.run(&ours, args).ended(0);
        other.wait().ended(0);
        let top = |space: &str, commit: &str| {
            content(&two.scene.image_name(&format!("{space}/top"), &format!("sha-{commit}")), "/file")
        };
        assert_eq!((top("a", &ours), top("b", &theirs)), ("ours".to_owned(), "theirs".to_owned()));
        assert_eq!(names_in_engine(&[&name]), Vec::<String>::new());
    }
}

/// A base and an image that uses it, built by a docker that stops at the second build.
fn stopped_between(scene: &mut Scene, name: &str) -> (String, std::path::PathBuf) {
    let repository = &scene.repository;
    repository
        .image(name, "base")
        .write("top/Dockerfile", format!("FROM {name}:1\nCOPY f /f\n"))
        .write("top/f", "f");
    repository.images(&[
        json!({"service_name": name, "version": "1"}),
        json!({"service_name": "top", "version": "1"}),
    ]);
    let commit = repository.commit("two");
    let begun = scene.swanci.work().join("begun");
    let go_on = scene.swanci.work().join("go-on");
    scene.swanci.docker_that(&format!(
        "if [ $building ] && [[ \" $* \" == */top:sha-* ]] && ! [ -e {} ]; then : >{}; exec sleep 300; fi",
        go_on.display(),
        begun.display()
    ));
    (commit, go_on)
}

#[test]
fn a_run_that_ends_between_two_images_leaves_no_name_and_the_next_run_completes_it() {
    for signals in [&[Signal::KILL][..], &[Signal::INT, Signal::INT], &[Signal::TERM]] {
        let mut scene = Scene::new();
        let name = unique("base");
        let _cleanup = Cleanup::new(&name);
        import(&format!("{name}:1"), "the engine's");
        let before = names_in_engine(&[&name]);
        let (commit, go_on) = stopped_between(&mut scene, &name);
        let payload = scene.swanci.file("payload.json", scene.payload(&commit)).display().to_string();
        let run = scene.swanci.start(&["run", &payload]);
        let begun = go_on.with_file_name("begun");
        eventually("the second build begins", || begun.exists());
        assert_eq!(names_in_engine(&[&name]), before, "while it builds");
        signals.iter().for_each(|signal| run.signal(*signal));
        run.wait();
        assert_eq!(names_in_engine(&[&name]), before, "after {signals:?}");
        let base = scene.image_name(&name, &format!("sha-{commit}"));
        let first = names_in_engine(&[&base]);
        assert_eq!(first.len(), 1);

        std::fs::write(&go_on, "").unwrap();
        let pushed = scene.digest(&name, &format!("sha-{commit}"));
        let receipt = scene.run(&commit, &[]).ended(0).json();
        let now = image(&receipt, &name)["digest"].as_str().map(str::to_owned);
        assert!(pushed.is_none() || pushed == now, "the commit has two images");
        assert_eq!(names_in_engine(&[&base]), first);
        assert_eq!(content(&scene.image_name("top", &format!("sha-{commit}")), "/file"), "base");
        assert_eq!(names_in_engine(&[&name]), before);
        let names = names_in_engine(&[&scene.registry.host()]);
        assert!(names.iter().all(|line| line.contains(&format!(":sha-{commit} "))), "{names:?}");
    }
}

#[test]
fn an_unchanged_base_is_used_by_digest_even_if_the_engine_lost_it() {
    let two = Two::new();
    let (name, scene) = (unique("base"), &two.scene);
    let _cleanup = Cleanup::new(&name);
    let tops = [
        ("from", "FROM NAME:1\nCOPY f /f\n"),
        ("copy", "FROM scratch\nCOPY --from=NAME:1 /file /file\nCOPY f /f\n"),
        ("stage", "FROM --platform=linux/amd64 NAME AS NAME\nFROM NAME\nCOPY f /f\n"),
    ];
    let write = |text: &str| {
        for (top, dockerfile) in tops {
            scene.repository.write(&format!("{top}/Dockerfile"), dockerfile.replace("NAME", &name));
            scene.repository.write(&format!("{top}/f"), text);
        }
        scene.repository.commit(text)
    };
    scene.repository.image(&name, "base");
    let names = [name.as_str(), "from", "copy", "stage"];
    scene.repository.images(&names.map(|n| json!({"service_name": n, "version": "1"})));
    let first = write("first");
    scene.run(&first, &[]).ended(0);
    let lost = scene.image_name(&name, &format!("sha-{first}"));
    docker_text(&["image", "rm", &lost]);
    // The image that has its moving name in the engine is not used.
    import(&scene.image_name(&name, "1"), "the engine's");
    import(&format!("{name}:1"), "the engine's");
    let before = names_in_engine(&[&name, &scene.image_name(&name, "")]);
    for (n, args) in [("second", &[][..]), ("third", &["--pull"])] {
        let commit = write(n);
        let receipt = scene.run(&commit, args).ended(0).json();
        assert_eq!(image(&receipt, &name)["status"], "unchanged");
        for (top, dockerfile) in tops {
            let top = scene.image_name(top, &format!("sha-{commit}"));
            assert_eq!(
                (content(&top, "/file"), content(&top, "/f")),
                ("base".into(), n.into()),
                "{dockerfile}"
            );
        }
        assert_eq!(names_in_engine(&[&name, &scene.image_name(&name, "")]), before, "{args:?}");
    }
}

#[test]
fn pull_fetches_external_bases_but_not_local_ones() {
    let scene = Scene::new();
    let name = unique("base");
    let foreign = scene.image_name("foreign", "1");
    import(&foreign, "new");
    docker_text(&["push", "--quiet", &foreign]);
    docker_text(&["image", "rm", &foreign]);
    import(&foreign, "old");
    scene
        .repository
        .image(&name, "base")
        .write("top/Dockerfile", format!("FROM {foreign}\nCOPY --from={name}:1 /file /base\n"));
    scene.repository.images(&[
        json!({"service_name": name, "version": "1"}),
        json!({"service_name": "top", "version": "1"}),
    ]);
    let commit = scene.repository.commit("first");
    let engines = inspect(&foreign)["Id"].clone();
    for (args, expected) in [(&[][..], "old"), (&["--pull", "--force"][..], "new")] {
        scene.build(&commit, args).ended(0);
        let top = scene.image_name("top", &format!("sha-{commit}"));
        assert_eq!(
            (content(&top, "/file"), content(&top, "/base")),
            (expected.into(), "base".into()),
            "{args:?}"
        );
        assert_eq!(names_in_engine(&[&format!("{name}:")]), Vec::<String>::new());
        assert_eq!(inspect(&foreign)["Id"], engines, "the engine's own tag stays");
    }
}

#[test]
fn a_local_base_does_not_depend_on_the_tags_of_the_run() {
    let scene = Scene::new();
    let name = unique("base");
    let _cleanup = Cleanup::new(&name);
    import(&format!("{name}:1.0"), "the engine's");
    scene.repository.image(&name, "its own").write("top/Dockerfile", format!("FROM {name}:1.0\n"));
    scene.repository.images(&[
        json!({"service_name": name, "version": "1.0"}),
        json!({"service_name": "top", "version": "1"}),
    ]);
    let commit = scene.repository.commit("first");
    let top = scene.image_name("top", &format!("sha-{commit}"));
    let mut inputs = Vec::new();
    for args in [&["--branch", "main"][..], &["--commit", &commit], &["--branch", "main", "--tag", "nightly"]]
    {
        let url = scene.repository.url();
        let built = scene.swanci.run(&[&["build", "--repo", &url, "--force"], args].concat()).ended(0);
        assert_eq!(content(&top, "/file"), "its own", "{args:?}");
        inputs.push(image(&built.json(), "top")["inputs"].clone());
    }
    assert!(inputs.iter().all(|one| *one == inputs[0]), "{inputs:?}");
}

#[test]
fn a_later_stage_is_not_an_image() {
    let scene = Scene::new();
    let name = unique("tools");
    scene.repository.image(&name, "the image's").write(
        "top/Dockerfile",
        format!("FROM scratch AS top\nCOPY own /own\nFROM scratch AS {name}\nCOPY own /file\nFROM top\nCOPY --from={name} /file /file\n"),
    );
    scene.repository.write("top/own", "the stage's");
    scene.repository.images(&[
        json!({"service_name": name, "version": "1"}),
        json!({"service_name": "top", "version": "1"}),
    ]);
    let commit = scene.repository.commit("first");
    scene.build(&commit, &[]).ended(0);
    assert_eq!(content(&scene.image_name("top", &format!("sha-{commit}")), "/file"), "the stage's");
}

#[test]
fn without_a_registry_only_built_images_get_local_names() {
    let swanci = Swanci::new();
    let repository = crate::support::repository::Repository::new();
    let (name, top) = (unique("base"), unique("top"));
    let _cleanup = (Cleanup::new(&name), Cleanup::new(&top));
    import(&format!("{name}:1"), "the engine's");
    let before = names_in_engine(&[&format!("{name}:1 ")]);
    repository.image(&name, "its own").write(&format!("{top}/Dockerfile"), format!("FROM {name}:1\n"));
    repository.images(&[
        json!({"service_name": top, "version": "1"}),
        json!({"service_name": name, "version": "1"}),
    ]);
    let commit = repository.commit("first");
    swanci.run(&["build", "--repo", &repository.url(), "--branch", "main"]).ended(0);
    assert_eq!(content(&format!("{top}:sha-{commit}"), "/file"), "its own");
    assert_eq!(names_in_engine(&[&format!("{name}:1 ")]), before);
    assert_eq!(names_in_engine(&[&name, &top]).len(), 3);
}
