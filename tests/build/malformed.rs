//! Hostile and malformed images.json: code 4, with the position, before anything is built.

use serde_json::{Value, json};

use crate::support::engine;
use crate::support::swanci::{Scene, image};

/// A scene whose first image is valid, so that it would be built without the error.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.repository.image("good", "1").image("other", "2");
    scene.repository.write("staged/Dockerfile", "FROM scratch AS one\nCOPY Dockerfile /x\n");
    scene.repository.write("empty/file", "no Dockerfile");
    scene
}

#[track_caller]
fn refused(scene: &Scene, what: &str, said: &[&str]) {
    let commit = scene.repository.commit(what);
    let ran = scene.build(&commit, &[]);
    assert_eq!(ran.code, 4, "{what}: {ran:?}");
    let ran = ran.saying(said);
    assert_eq!(ran.stdout, "", "{what}");
    assert!(!engine::has(&scene.image_name("good", &format!("sha-{commit}"))), "{what}: something was built");
    assert!(scene.swanci.tmp_is_empty());
}

#[test]
fn a_malformed_images_json_is_reported_with_its_position_and_builds_nothing() {
    let scene = scene();
    let good = json!({"service_name": "good", "version": "1"});
    let second = |more: Value| {
        let mut image = json!({"service_name": "other"});
        for (key, value) in more.as_object().unwrap() {
            image[key] = value.clone();
        }
        json!({"images": [good.clone(), image]}).to_string()
    };
    let cases: Vec<(String, &str)> = vec![
        (String::new(), "images.json"),
        ("{".to_owned(), "images.json"),
        ("[]".to_owned(), "images.json"),
        ("{\"images\":[]}".to_owned(), "images"),
        (json!({"images": [good.clone()], "more": 1}).to_string(), "more"),
        ("{\"images\":[{\"service_name\":\"good\"}],\"images\":[]}".to_owned(), "images"),
        (second(json!({"service_name": "good"})), "images[1].service_name"),
        (second(json!({"serivce": 1})), "images[1]"),
        (second(json!({"service_name": "Upper"})), "images[1].service_name"),
        (second(json!({"service_name": "-x"})), "images[1].service_name"),
        (second(json!({"service_name": "../good"})), "images[1].service_name"),
        (second(json!({"service_name": "a".repeat(300)})), "images[1].service_name"),
        (second(json!({"version": "1.0 beta"})), "images[1].version"),
        (second(json!({"version": "-rf"})), "images[1].version"),
        (second(json!({"version": "x".repeat(129)})), "images[1].version"),
        (second(json!({"version": 1})), "images[1].version"),
        (second(json!({"tags": ["{unknown}"]})), "images[1].tags[0]"),
        (second(json!({"tags": ["ok", "a b"]})), "images[1].tags[1]"),
        (second(json!({"tags": "x"})), "images[1].tags"),
        (second(json!({"args": {"1X": "v"}})), "images[1].args.1X"),
        (second(json!({"args": {"--x": "v"}})), "images[1].args"),
        (second(json!({"args": {"A": [1]}})), "images[1].args"),
        (second(json!({"args": {"API_TOKEN": "abcdefghijklmnop"}})), "images[1].args.API_TOKEN"),
        (second(json!({"target": "--file=/etc/passwd"})), "images[1].target"),
        (second(json!({"context": "staged", "target": "nine"})), "nine"),
        (second(json!({"platform": "--x"})), "images[1].platform"),
        (second(json!({"context": "../x"})), "images[1].context"),
        (second(json!({"context": "/etc"})), "images[1].context"),
        (second(json!({"context": "a/../../x"})), "images[1].context"),
        (second(json!({"context": ""})), "images[1].context"),
        (second(json!({"dockerfile": "../../Dockerfile"})), "images[1].dockerfile"),
        (second(json!({"dockerfile": "/etc/passwd"})), "images[1].dockerfile"),
        (second(json!({"context": "absent"})), "absent"),
        (second(json!({"context": "other/file"})), "other/file"),
        (second(json!({"context": "empty"})), "empty/Dockerfile"),
        (second(json!({"dockerfile": "absent"})), "absent"),
        (second(json!({"type": 5})), "images[1].type"),
    ];
    // One commit for each case, so that a failure names the case.
    for (text, place) in cases {
        scene.repository.write("images.json", &text);
        refused(&scene, &text.chars().take(80).collect::<String>(), &[place]);
    }
}

#[test]
fn a_commit_without_any_image_is_malformed() {
    let scene = scene();
    refused(&scene, "neither images.json nor Dockerfile", &["images.json", "Dockerfile"]);
}

#[test]
fn a_link_out_of_the_repository_never_adds_a_file_to_an_image() {
    let scene = scene();
    let outside = tempfile::tempdir().unwrap();
    let canary = "canary-7f3a9c-outside";
    std::fs::write(outside.path().join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    std::fs::write(outside.path().join("secret"), canary).unwrap();
    let target = outside.path().display().to_string();
    let r = &scene.repository;
    let list = |context: &str, more: Value| {
        let mut bad = json!({"service_name": "bad", "version": "1", "context": context});
        for (key, value) in more.as_object().unwrap() {
            bad[key] = value.clone();
        }
        r.images(&[json!({"service_name": "good", "version": "1"}), bad]);
    };
    r.symlink("absolute", &target)
        .symlink("climbing", "../../../../../../etc")
        .symlink("dangling", "nowhere");
    r.symlink("one", "two").symlink("two", "one").symlink("inner/absolute", &target);
    r.write("ok/Dockerfile", "FROM scratch\nCOPY . /\n")
        .symlink("ok/Linked", &format!("{target}/Dockerfile"));
    for context in ["absolute", "climbing", "dangling", "one", "inner/absolute", "absolute/x"] {
        list(context, json!({}));
        refused(&scene, context, &["bad"]);
    }
    list("ok", json!({"dockerfile": "Linked"}));
    refused(&scene, "a linked Dockerfile", &["bad"]);
    r.remove("images.json").symlink("images.json", &format!("{target}/secret"));
    refused(&scene, "a linked images.json", &["images.json"]);

    // Below a valid context, a link to the outside is copied into the image as a link.
    r.remove("images.json").symlink("ok/escape", &format!("{target}/secret"));
    r.symlink("ok/folder", &target).remove("ok/Linked");
    r.images(&[json!({"service_name": "ok", "version": "1"})]);
    let commit = r.commit("a link inside the context");
    scene.build(&commit, &[]).ended(0);
    let bytes = engine::everything_of(&scene.image_name("ok", &format!("sha-{commit}")));
    assert!(!bytes.windows(canary.len()).any(|w| w == canary.as_bytes()), "the canary is in the image");
}

#[test]
fn a_link_inside_the_repository_is_followed_to_the_right_content() {
    let scene = Scene::new();
    let r = &scene.repository;
    r.image("real/web", "the real content").symlink("web", "real/web").symlink("real/api", "./web");
    r.write("files/Web.docker", "FROM scratch\nCOPY file /through-a-link\n");
    r.write("plain/file", "plain").symlink("plain/Dockerfile", "../files/Web.docker");
    r.write("shared/file", "shared");
    r.images(&[
        json!({"service_name": "web", "version": "1"}),
        json!({"service_name": "api", "context": "real/api", "version": "1"}),
        json!({"service_name": "plain", "version": "1"}),
        json!({"service_name": "shared", "version": "1", "dockerfile": "../files/Web.docker"}),
    ]);
    let commit = r.commit("links");
    let document = scene.build(&commit, &[]).ended(0).json();
    let name = |n: &str| scene.image_name(n, &format!("sha-{commit}"));
    assert_eq!(engine::file_of(&name("web"), "/file").unwrap(), b"the real content");
    assert_eq!(engine::file_of(&name("api"), "/file").unwrap(), b"the real content");
    assert_eq!(engine::file_of(&name("plain"), "/through-a-link").unwrap(), b"plain");
    assert_eq!(engine::file_of(&name("shared"), "/through-a-link").unwrap(), b"shared");
    assert_eq!(image(&document, "web")["inputs"], image(&document, "api")["inputs"]);
    // The target of the link is an input.
    scene.run(&commit, &[]).ended(0);
    r.write("real/web/file", "changed");
    let commit = r.commit("behind the link");
    let document = scene.build(&commit, &[]).ended(0).json();
    assert_eq!(image(&document, "web")["status"], "built");
    assert_eq!(image(&document, "shared")["status"], "unchanged");
}

#[test]
fn a_version_that_makes_an_overlong_tag_is_refused() {
    let scene = scene();
    scene.repository.images(&[
        json!({"service_name": "good", "version": "x".repeat(120), "tags": ["{version}-{commit}"]}),
    ]);
    refused(&scene, "too long", &["good"]);
}
