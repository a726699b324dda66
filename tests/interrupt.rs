//! Signals: the exit code, no remaining child or temporary file, and an immediate end on a second signal.

use rustix::process::Signal;
use serde_json::json;

use crate::support::engine::{docker_text, unique};
use crate::support::swanci::{Scene, eventually, image, processes_with};

/// A scene with an image whose build sleeps; the mark is in the step's command line.
fn sleeper() -> (Scene, String, String) {
    let scene = Scene::new();
    let mark = unique("mark");
    scene.repository.write(
        "a/Dockerfile",
        format!(
            "FROM scratch\nLABEL mark={mark}\nCOPY busybox /bin/busybox\n\
             RUN [\"/bin/busybox\",\"sh\",\"-c\",\": {mark}; /bin/busybox sleep 500; :\"]\n"
        ),
    );
    scene
        .repository
        .write("a/busybox", std::fs::read("/bin/busybox").expect("apt-get install busybox-static"));
    scene.repository.executable("a/busybox", true);
    scene.repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("sleeps");
    (scene, commit, mark)
}

#[test]
fn a_signal_stops_the_build_in_the_engine_too_and_leaves_nothing() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (scene, commit, mark) = sleeper();
        let payload = scene.swanci.file("payload.json", scene.payload(&commit));
        let run = scene.swanci.start(&["run", &payload.display().to_string()]);
        let step = format!(": {mark};");
        eventually("the step runs", || {
            processes_with(&step).iter().any(|(_, line)| line.contains("busybox"))
        });
        run.signal(signal);
        run.wait().ended(code).saying(&["error:"]);
        assert!(scene.swanci.tmp_is_empty(), "temporary files are left");
        let ours = scene.swanci.tmp().display().to_string();
        assert_eq!(processes_with(&ours), [], "a child still runs");
        eventually("the step is gone", || processes_with(&step).is_empty());
        eventually("no container is left", || {
            !docker_text(&["ps", "--all", "--no-trunc", "--format", "{{.Command}}"]).contains(&mark)
        });
        let filter = format!("label=mark={mark}");
        let dangling = docker_text(&["image", "ls", "-q", "--filter", "dangling=true", "--filter", &filter]);
        assert_eq!(dangling, "", "an image without a name is left");
        assert_eq!(scene.digest("a", "1"), None);
        // The next build is not blocked.
        scene.build(&commit, &["--dry-run"]).ended(0);
    }
}

#[test]
fn a_kill_also_ends_the_children_and_the_next_run_removes_the_files() {
    let (scene, commit, mark) = sleeper();
    let payload = scene.swanci.file("payload.json", scene.payload(&commit));
    let run = scene.swanci.start(&["run", &payload.display().to_string()]);
    eventually("the step runs", || !processes_with(&format!(": {mark};")).is_empty());
    // Another build in parallel does not remove its files.
    let beside = scene.build(&commit, &["--dry-run"]).ended(0);
    assert_eq!(image(&beside.json(), "a")["status"], "planned");
    assert!(!scene.swanci.tmp_is_empty(), "the files of a build are gone while it runs");
    run.signal(Signal::KILL);
    run.wait();
    let ours = scene.swanci.tmp().display().to_string();
    eventually("docker's client is gone", || processes_with(&ours).is_empty());
    eventually("the step is gone", || processes_with(&format!(": {mark};")).is_empty());
    // The next build removes its files.
    assert!(!scene.swanci.tmp_is_empty());
    scene.build(&commit, &["--dry-run"]).ended(0);
    assert!(scene.swanci.tmp_is_empty(), "temporary files are left");
}

#[test]
fn a_second_signal_ends_immediately_and_a_child_that_ignores_the_first_is_killed() {
    let (mut scene, commit, _) = sleeper();
    let begun = scene.swanci.work().join("begun");
    // A docker that ignores signals, with a grandchild that ignores them too.
    scene.swanci.docker_that(&format!(
        "if [ $building ]; then\n  trap '' TERM INT\n  \
         (trap '' TERM INT; exec -a stubborn-{commit} sleep 300) & : >{}\n  wait\n  wait\n  exit\nfi",
        begun.display()
    ));
    let stubborn = format!("stubborn-{commit}");
    let payload = scene.swanci.file("payload.json", scene.payload(&commit)).display().to_string();
    let run = scene.swanci.start(&["run", &payload]);
    eventually("docker runs", || begun.exists() && !processes_with(&stubborn).is_empty());
    run.signal(Signal::TERM);
    run.wait().ended(143);
    eventually("the grandchild is gone", || processes_with(&stubborn).is_empty());

    std::fs::remove_file(&begun).unwrap();
    let run = scene.swanci.start(&["run", &payload]);
    eventually("docker runs", || begun.exists() && !processes_with(&stubborn).is_empty());
    run.signal(Signal::INT);
    run.signal(Signal::INT);
    run.wait().ended(130);
    for (pid, _) in processes_with(&stubborn) {
        // Two signals may leave this process; the test ends it.
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}
