//! The whole way with Gitea's own registry: its token server, and images below a user's name.
//!
//! `scripts/test registries` starts one and sets SWANCI_TEST_GITEA, SWANCI_TEST_GITEA_USER and SWANCI_TEST_GITEA_TOKEN.

use serde_json::{Value, json};

use crate::support::engine::{docker_text, unique};
use crate::support::swanci::{Scene, image, outcome};

struct Gitea {
    host: String,
    user: String,
    token: String,
}

impl Gitea {
    fn new() -> Gitea {
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name}: see scripts/test"));
        Gitea {
            host: variable("SWANCI_TEST_GITEA").trim_start_matches("http://").to_owned(),
            user: variable("SWANCI_TEST_GITEA_USER"),
            token: variable("SWANCI_TEST_GITEA_TOKEN"),
        }
    }

    fn login(&self, password: &str) -> String {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{password}", self.user));
        json!({"auths": {&self.host: {"auth": auth}}}).to_string()
    }

    /// A scene whose images belong below the user's name; returns where.
    fn scene(&self) -> (Scene, String) {
        let mut scene = Scene::new();
        let place = format!("{}/{}/{}", self.host, self.user, unique("shop"));
        scene.images.also(&place);
        scene.configure_for(&place, "");
        scene.repository.image("a", "one").image("b", "two");
        scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1.0"})));
        (scene, place)
    }
}

fn digest(receipt: &Value, name: &str) -> String {
    image(receipt, name)["digest"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn a_merge_goes_the_whole_way() {
    let gitea = Gitea::new();
    let (scene, place) = gitea.scene();
    scene.swanci.docker_config(&gitea.login(&gitea.token));
    let first = scene.repository.commit("first");
    let ran = scene.run(&first, &["-v"]).ended(0);
    assert!(!ran.stderr.contains(&gitea.token), "{}", ran.stderr);
    let receipt = ran.json();
    assert_eq!(image(&receipt, "a")["repository"], format!("{place}/a"));
    assert_eq!([outcome(&receipt, "a", "1.0"), outcome(&receipt, "b", "1.0")], ["moved", "moved"]);
    let file = scene.swanci.file("receipt.json", &ran.stdout).display().to_string();
    assert_eq!(scene.swanci.run(&["verify", &file]).ended(0).json()["outcome"], "intact");

    // One changes, the other is tagged as it is.
    scene.repository.write("a/file", "changed");
    let second = scene.repository.commit("second");
    let receipt = scene.run(&second, &[]).ended(0).json();
    let status = ["a", "b"].map(|name| image(&receipt, name)["status"].as_str().unwrap().to_owned());
    assert_eq!(status, ["built", "unchanged"]);
    let again = scene.run(&second, &[]).ended(0).json();
    assert_eq!([outcome(&again, "a", "1.0"), outcome(&again, "b", "1.0")], ["already", "already"]);
    assert_eq!(digest(&again, "a"), digest(&receipt, "a"));
    let pulled = format!("{place}/b@{}", digest(&receipt, "b"));
    let config = scene.swanci.docker_dir().display().to_string();
    docker_text(&["--config", &config, "pull", "--quiet", &pulled]);

    // An older merge moves nothing back.
    let older = scene.run(&first, &[]).ended(0).json();
    assert_eq!(outcome(&older, "a", "1.0"), "superseded");
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn catchup_finds_what_is_missing_and_then_nothing() {
    let gitea = Gitea::new();
    let (scene, _) = gitea.scene();
    scene.swanci.docker_config(&gitea.login(&gitea.token));
    let first = scene.repository.commit("first");
    scene.run(&first, &[]).ended(0);
    scene.repository.write("a/file", "changed");
    let second = scene.repository.commit("second");
    let outcomes = |document: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let commits = document["commits"].as_array().unwrap();
        commits.iter().map(|c| (text(&c["commit"]), text(&c["outcome"]))).collect()
    };
    let catchup = || {
        outcomes(
            &scene
                .swanci
                .run(&["catchup", "--repo", &scene.repository.url(), "--branch", "main"])
                .ended(0)
                .json(),
        )
    };
    let expected = |how: &str| [(first.clone(), "present".to_owned()), (second.clone(), how.to_owned())];
    assert_eq!(catchup(), expected("built"));
    assert_eq!(catchup(), expected("present"));
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn no_login_and_a_wrong_one_are_6_and_say_so() {
    let gitea = Gitea::new();
    let (scene, _) = gitea.scene();
    let commit = scene.repository.commit("first");
    for config in ["{}".to_owned(), gitea.login("wrong")] {
        scene.swanci.docker_config(&config);
        scene.run(&commit, &[]).ended(6).saying(&["hint:", "docker login"]);
    }
}
