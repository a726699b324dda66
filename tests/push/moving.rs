//! A moving tag never moves back, and never to another repository's image.

use serde_json::{Value, json};

use super::{digest_of, next};
use crate::support::swanci::{Scene, image, outcome};

fn note(receipt: &Value) -> String {
    image(receipt, "a")["moved"][0]["note"].as_str().unwrap_or("").to_owned()
}

#[test]
fn an_old_document_that_is_pushed_late_moves_nothing() {
    let (scene, first) = Scene::with_one_image();
    let late = scene.build(&first, &[]).ended(0);
    let second = next(&scene, "2");
    scene.run(&second, &[]).ended(0);
    let receipt = scene.push(&late, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "superseded");
    assert_eq!(receipt["outcome"], "succeeded");
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &second)));
    // It still gets its own tag.
    assert_eq!(image(&receipt, "a")["digest"], digest_of(&scene, &first));
    assert_ne!(digest_of(&scene, &first), digest_of(&scene, &second));

    // Rebuilt, the old commit still does not move the tag; only an option overrides this.
    let receipt = scene.run(&first, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "superseded");
    let receipt = scene.push(&late, &["--allow-rollback"]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    assert_eq!(image(&receipt, "a")["moved"][0]["from"], digest_of(&scene, &second));
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &first)));
}

#[test]
fn a_revert_is_not_undone_by_the_reverted_commit() {
    let (scene, first) = Scene::with_one_image();
    scene.run(&first, &[]).ended(0);
    let second = next(&scene, "2");
    let late = scene.build(&second, &[]).ended(0);
    let third = next(&scene, "1");
    let receipt = scene.run(&third, &[]).ended(0).json();
    assert_eq!(image(&receipt, "a")["status"], "unchanged");
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &first)), "the revert's image is the old one");
    // The image under the tag is older than the second commit, but the pushed commit is newer.
    let receipt = scene.push(&late, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "superseded");
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &first)));
}

#[test]
fn a_revert_that_is_pushed_in_order_moves_the_tag() {
    let (scene, first) = Scene::with_one_image();
    scene.run(&first, &[]).ended(0);
    let second = next(&scene, "2");
    scene.run(&second, &[]).ended(0);
    let third = next(&scene, "1");
    let receipt = scene.run(&third, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &third)));
}

#[test]
fn all_tags_of_a_superseded_commit_stay() {
    let scene = Scene::new();
    scene.repository.image("a", "1").image("b", "1");
    let list = |tags: Value| {
        scene.repository.images(&[
            json!({"service_name": "a", "version": "1", "tags": tags}),
            json!({"service_name": "b", "version": "1"}),
        ]);
    };
    list(json!(["1", "first-only"]));
    let first = scene.repository.commit("first");
    let late = scene.build(&first, &[]).ended(0);
    list(json!(["1"]));
    let second = next(&scene, "2");
    scene.run(&second, &[]).ended(0);
    let receipt = scene.push(&late, &[]).ended(0).json();
    for (name, tag) in [("a", "1"), ("a", "first-only"), ("b", "1")] {
        assert_eq!(outcome(&receipt, name, tag), "superseded", "{name}:{tag}");
    }
    assert_eq!(scene.digest("a", "first-only"), None);
}

#[test]
fn an_incomplete_newer_commit_does_not_hold_the_tag() {
    let scene = Scene::new();
    scene.repository.image("a", "1").image("b", "1");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    let first = scene.repository.commit("first");
    let second = next(&scene, "2");
    // Only a part of the second commit is in the registry, so the first one may still move the tags.
    scene.registry.push_sample_image("a", &format!("sha-{second}"), &[]);
    let receipt = scene.run(&first, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    // With its other image the second commit is complete, so the first one moves no tags.
    scene.registry.push_sample_image("b", &format!("sha-{second}"), &[]);
    let receipt = scene.run(&first, &["--tag", "other"]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "other"), "superseded");
}

#[test]
fn an_unknown_or_diverged_revision_does_not_hold_the_tag_and_gets_a_note() {
    let (scene, _) = Scene::with_one_image();
    let source = ("org.opencontainers.image.source", "https://github.com/acme/shop");
    let unknown = "0123456789012345678901234567890123456789";
    scene.repository.branch("other").write("a/file", "other");
    let diverged = scene.repository.commit("other");
    scene.repository.checkout("main");
    for (content, labels, said) in [
        ("2", vec![source], "no revision"),
        ("3", vec![], "no revision"),
        ("4", vec![source, ("org.opencontainers.image.revision", unknown)], "not known"),
    ] {
        scene.registry.push_sample_image("a", "1", &labels);
        let commit = next(&scene, content);
        let receipt = scene.run(&commit, &[]).ended(0).json();
        assert_eq!(outcome(&receipt, "a", "1"), "moved");
        assert!(note(&receipt).contains(said), "{receipt}");
        assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &commit)));
    }
    // The other branch uses the same tag.
    let payload = crate::support::repository::Payload::merged("acme/shop", "other", &diverged).bytes();
    let receipt = scene.swanci.pipe(&["run", "-"], payload).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    assert!(note(&receipt).contains("diverged"), "{receipt}");
}

#[test]
fn another_repositorys_image_is_not_overwritten() {
    let (scene, commit) = Scene::with_one_image();
    let labels = [("org.opencontainers.image.source", "https://github.com/other/shop")];
    let theirs = scene.registry.push_sample_image("a", "1", &labels);
    let built = scene.build(&commit, &[]).ended(0);
    for refused in [scene.run(&commit, &[]), scene.push(&built, &[])] {
        refused.ended(5).saying(&["other/shop", "--take-over"]);
        assert_eq!(scene.digest("a", &format!("sha-{commit}")), None, "nothing is written");
    }
    assert_eq!(scene.digest("a", "1").as_deref(), Some(theirs.as_str()));
    let receipt = scene.run(&commit, &["--take-over"]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");

    // Another URL of the same repository is not another repository.
    for same in ["https://github.com/acme/shop", "https://github.com/ACME/shop.git"] {
        scene.registry.push_sample_image("a", "1", &[("org.opencontainers.image.source", same)]);
        scene.run(&commit, &[]).ended(0);
    }
    let by_hand = ["build", "--repo", &scene.repository.url(), "--branch", "main", "--force"];
    scene.registry.push_sample_image("a", "1", &labels);
    let built = scene.swanci.run(&by_hand).ended(0);
    scene.push(&built, &[]).ended(5);
}

#[test]
fn an_unreachable_repository_moves_nothing() {
    let (scene, commit) = Scene::with_one_image();
    let built = scene.build(&commit, &[]).ended(0);
    let away = scene.repository.path().with_extension("away");
    std::fs::rename(scene.repository.path(), &away).unwrap();
    let receipt = scene.push(&built, &[]).ended(6).json();
    assert_eq!(receipt["outcome"], "failed");
    assert_eq!(scene.digest("a", "1"), None);
    std::fs::rename(&away, scene.repository.path()).unwrap();
    scene.push(&built, &[]).ended(0);
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &commit)));
}

#[test]
fn the_branch_is_fetched_again_before_the_tag_moves() {
    let (scene, _) = Scene::with_one_image();
    let second = next(&scene, "2");
    scene.run(&second, &[]).ended(0);
    // Another machine, whose state lacks the second commit, pushes the first.
    let first = scene.repository.git(&["rev-parse", "main^"]);
    scene.repository.reset(&first);
    let other = crate::support::swanci::Swanci::new();
    other.config(&std::fs::read_to_string(scene.swanci.work().join("swanci.toml")).unwrap());
    let built = other.pipe(&["build", "-"], scene.change(&first)).ended(0);
    scene.repository.reset(&second);
    let receipt = other.pipe(&["push", "-"], built.stdout).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "superseded");
}
