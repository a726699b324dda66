//! The layers of the configuration, seen from outside: default, file, environment, flag.

use serde_json::json;

use crate::support::repository::Payload;
use crate::support::swanci::{Scene, Swanci, image};

#[test]
fn a_flag_comes_before_the_environment_and_that_before_the_file() {
    let (mut scene, commit) = Scene::with_one_image();
    let host = scene.registry.host();
    let of = |scene: &Scene, args: &[&str]| {
        let args = [&["--dry-run"], args].concat();
        let document = scene.build(&commit, &args).ended(0).json();
        image(&document, "a")["repository"].as_str().unwrap().to_owned()
    };
    scene.configure_for(&format!("{host}/file"), "[build]\ntags = [\"from-file\"]");
    assert_eq!(of(&scene, &[]), format!("{host}/file/a"));
    scene.swanci.set("SWANCI_REGISTRY", &format!("{host}/environment"));
    assert_eq!(of(&scene, &[]), format!("{host}/environment/a"));
    assert_eq!(of(&scene, &["--registry", &format!("{host}/flag")]), format!("{host}/flag/a"));
    let tags = |scene: &Scene, args: &[&str]| {
        let document = scene.build(&commit, &[&["--dry-run"], args].concat()).ended(0).json();
        image(&document, "a")["tags"].clone()
    };
    assert_eq!(tags(&scene, &[]), json!(["from-file"]));
    scene.swanci.set("SWANCI_BUILD_TAGS", "one, {version}");
    assert_eq!(tags(&scene, &[]), json!(["one", "1"]));
    assert_eq!(tags(&scene, &["--tag", "flag"]), json!(["flag"]));
}

#[test]
fn the_file_is_the_flags_the_environments_or_the_one_that_stands_here() {
    let mut swanci = Swanci::new();
    let payload = Payload::merged("a/b", "topic", "0123456789012345678901234567890123456789").bytes();
    let config = |branch: &str| format!("[[repository]]\nname = \"A/B\"\nbranches = [\"{branch}\"]\n");
    let code = |swanci: &Swanci, args: &[&str]| {
        swanci.pipe(&[&["evaluate", "-"], args].concat(), payload.clone()).code
    };
    assert_eq!(code(&swanci, &[]), 0);
    swanci.config(&config("main"));
    assert_eq!(code(&swanci, &[]), 3, "./swanci.toml is read");
    let other = swanci.file("other.toml", config("topic")).display().to_string();
    swanci.set("SWANCI_CONFIG", &other);
    assert_eq!(code(&swanci, &[]), 0);
    let third = swanci.file("third.toml", config("x")).display().to_string();
    assert_eq!(code(&swanci, &["--config", &third]), 3);
    assert_eq!(code(&swanci, &["--config", &third, "--branch", "top*"]), 0);
    assert_eq!(code(&swanci, &["--config", "absent.toml"]), 4);
}

#[test]
fn a_mistake_in_the_file_names_file_line_and_the_nearest_key() {
    let swanci = Swanci::new();
    for (text, said) in [
        ("[registry]\nhots = \"x\"\n", &["swanci.toml", "line 2", "hots", "did you mean `host`"][..]),
        ("state_dri = \"x\"\n", &["line 1", "state_dir"]),
        ("[build]\njobs = 0\n", &["build.jobs"]),
        ("[build]\njobs = \"two\"\n", &["line 2"]),
        ("[build]\ntimeout = \"soon\"\n", &["build.timeout"]),
        ("[registry]\nhost = \"not a host\"\n", &["registry.host"]),
        ("[[repository]]\nname = \"x y\"\n", &["repository[0].name"]),
        (
            "[[repository]]\nname = \"a/b\"\n[[repository]]\nname = \"A/b\"\n",
            &["repository[1].name", "twice"],
        ),
        ("[serve]\nlisten = \"here\"\n", &["serve.listen"]),
        ("not toml", &["line 1"]),
    ] {
        swanci.config(text);
        swanci.pipe(&["evaluate", "-"], "{}").ended(4).saying(&["swanci.toml"]).saying(said);
    }
}

#[test]
fn a_variable_that_is_not_known_is_warned_about_and_ignored() {
    let mut swanci = Swanci::new();
    let payload = Payload::merged("a/b", "main", "0123456789012345678901234567890123456789").bytes();
    swanci.set("SWANCI_REGISTY", "x");
    let ran = swanci.pipe(&["evaluate", "-"], payload.clone()).ended(0);
    ran.saying(&["warning:", "SWANCI_REGISTY"]);
    swanci.unset("SWANCI_REGISTY");
    swanci.set("SWANCI_BUILD_JOBS", "many");
    swanci.pipe(&["evaluate", "-"], payload).ended(4).saying(&["SWANCI_BUILD_JOBS", "many"]);
}

#[test]
fn the_state_directory_is_the_flags_the_environments_or_the_users() {
    let (mut scene, commit) = Scene::with_one_image();
    let elsewhere = scene.swanci.work().join("elsewhere");
    scene.run(&commit, &["--state-dir", "elsewhere"]).ended(0);
    assert!(elsewhere.join("receipts").exists() && !scene.swanci.state().exists());
    scene.swanci.unset("SWANCI_STATE_DIR");
    scene.run(&commit, &[]).ended(0);
    assert!(scene.swanci.home().join(".local/state/swanci/receipts").exists());
    let xdg = scene.swanci.work().join("xdg");
    scene.swanci.set("XDG_STATE_HOME", &xdg.display().to_string());
    scene.run(&commit, &[]).ended(0);
    assert!(xdg.join("swanci/receipts").exists());
}
