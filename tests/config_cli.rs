//! The layers of the configuration: default, file, environment, flag.

use serde_json::json;

use crate::support::repository::Payload;
use crate::support::swanci::{Scene, Swanci, image};

#[test]
fn a_flag_overrides_the_environment_which_overrides_the_file() {
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
fn the_configuration_file_comes_from_the_flag_the_environment_or_the_current_folder() {
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
fn an_error_in_the_file_names_file_line_and_nearest_key() {
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
fn an_unknown_variable_is_ignored_with_a_warning() {
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
fn the_state_directory_comes_from_the_flag_the_environment_or_the_user() {
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

const COMMIT: &str = "0123456789012345678901234567890123456789";

#[test]
fn build_secrets_outside_of_a_repository_are_refused_with_a_hint() {
    let swanci = Swanci::new();
    swanci.config("[build]\nsecrets = { npm = \"/etc/swanci/npm-token\" }\n");
    let said = ["swanci.toml, line 2", "hint:", "`secrets` belongs to [[repository]]"];
    swanci.pipe(&["evaluate", "-"], "{}").ended(4).saying(&said);
}

#[test]
fn a_repository_without_an_owner_is_code_4_and_a_wrong_flag_is_code_2() {
    let swanci = Swanci::new();
    swanci.config("[[repository]]\nname = \"shop\"\n");
    swanci.pipe(&["evaluate", "-"], "{}").ended(4).saying(&["line 2", "`shop`", "hint:", "OWNER/NAME"]);
    swanci.config("");
    swanci.run(&["serve", "--repository", "shop"]).ended(2).saying(&["owner"]);
}

#[test]
fn an_ambiguous_token_is_not_used_and_never_shown() {
    let mut swanci = Swanci::new();
    swanci.config(
        "[[forge]]\nkind = \"github\"\n[[forge]]\nkind = \"gitea\"\nurl = \"https://git.example.org\"\n",
    );
    swanci.set("SWANCI_GIT_TOKEN", "canary-token-value");
    let payload =
        Payload::merged("a/b", "main", COMMIT).set("/pull_request/title", json!("canary-token-value"));
    let ran =
        swanci.pipe(&["evaluate", "-"], payload.bytes()).ended(0).saying(&["SWANCI_GIT_TOKEN is not used"]);
    assert!(!ran.stderr.contains("canary-token-value"), "{}", ran.stderr);
}

#[test]
fn an_empty_event_counts_as_missing() {
    let swanci = Swanci::new();
    let payload = Payload::merged("a/b", "main", COMMIT).bytes();
    for event in ["", " ", "pull_request", "pull_request_target"] {
        swanci.pipe(&["evaluate", "-", "--event", event], payload.clone()).ended(0);
    }
    swanci.pipe(&["evaluate", "-", "--event", "push"], payload).ended(3);
}

#[test]
fn a_swanci_document_instead_of_a_payload_is_code_4_with_a_hint() {
    let swanci = Swanci::new();
    let decision =
        swanci.pipe(&["evaluate", "-"], Payload::merged("a/b", "main", COMMIT).bytes()).ended(0).stdout;
    for command in ["evaluate", "run"] {
        for (document, next) in [
            (decision.as_str(), "swanci build"),
            (r#"{"schema":1,"change":{},"registry":null,"images":[]}"#, "swanci push"),
            (r#"{"schema":1,"outcome":"succeeded","images":[]}"#, "swanci verify"),
        ] {
            let ran = swanci.pipe(&[command, "-"], document).ended(4);
            ran.saying(&["document of swanci's own", "hint:", next]);
        }
    }
}

#[test]
fn a_payload_of_an_unsupported_system_is_code_4_with_its_name() {
    let swanci = Swanci::new();
    for (payload, name) in [
        (r#"{"eventType":"git.pullrequest.merged","publisherId":"tfs","resource":{}}"#, "Azure DevOps"),
        (r#"{"hook_name":"merge_request_hooks","action":"merge","pull_request":{"merged":true}}"#, "Gitee,"),
        (r#"{"type":"change-merged","change":{},"patchSet":{},"eventCreatedOn":1}"#, "Gerrit"),
        (
            r#"{"source":"aws.codecommit","detail-type":"CodeCommit Pull Request State Change"}"#,
            "AWS CodeCommit",
        ),
        (r#"{"trigger":"pullreq_merged","repo":{},"principal":{}}"#, "Harness"),
    ] {
        swanci.pipe(&["run", "-"], payload).ended(4).saying(&[&format!("the payload comes from {name}")]);
    }
    let payload = Payload::merged("a/b", "main", COMMIT).bytes();
    let told = swanci.pipe(&["evaluate", "-", "--forge", "gitea"], payload.clone()).ended(0).json();
    assert_eq!(told["change"]["forge"], "gitea");
    swanci.pipe(&["evaluate", "-", "--forge", "gitae"], payload).ended(2).saying(&["did you mean `gitea`?"]);
}

#[test]
fn output_has_no_control_characters_and_keeps_its_meaning() {
    let swanci = Swanci::new();
    let title = "\u{1b}[31mred\u{7f}\u{9b}2J\u{202e}evil\u{2028}x\u{200b}é日本";
    let payload = Payload::merged("a/b", "main", COMMIT).set("/pull_request/title", json!(title)).bytes();
    let ran = swanci.pipe(&["evaluate", "-", "--explain"], payload).ended(0);
    let harmless = |c: char| c == '\n' || !(c.is_control() || "\u{202e}\u{2028}\u{200b}".contains(c));
    assert!(ran.stdout.chars().all(harmless), "{:?}", ran.stdout);
    assert_eq!(ran.json()["change"]["pull_request"]["title"], title);
    for (event, body) in [
        ("pull_request", json!({"action": title, "pull_request": {}, "repository": {"full_name": "a/b"}})),
        (title, json!({})),
    ] {
        let ran = swanci.pipe(&["run", "-", "--event", event], body.to_string()).ended(0);
        assert!(ran.stderr.chars().all(harmless) && ran.stdout.chars().all(harmless), "{:?}", ran.stderr);
    }
    let bad = Payload::merged("a/b", "main", COMMIT).set("/pull_request/base/ref", json!(title)).bytes();
    let ran = swanci.pipe(&["run", "-"], bad).ended(4);
    assert!(ran.stderr.chars().all(harmless), "{:?}", ran.stderr);
}

#[test]
fn a_byte_order_mark_and_whitespace_around_a_secret_are_ignored() {
    use hmac::{KeyInit as _, Mac as _};
    let swanci = Swanci::new();
    let body = Payload::merged("a/b", "main", COMMIT).bytes();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice("geheim & ünï".as_bytes()).unwrap();
    mac.update(&body);
    let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    for content in ["geheim & ünï", "geheim & ünï\r\n", "\u{feff}geheim & ünï\n", " geheim & ünï \n\n"]
    {
        swanci.file("secret", content);
        let args = ["evaluate", "-", "--secret-file", "secret", "--signature", &signature];
        swanci.pipe(&args, body.clone()).ended(0);
    }
    swanci.file("secret", "\u{feff}\n");
    swanci.pipe(&["evaluate", "-", "--secret-file", "secret", "--signature", &signature], body).ended(4);
}
