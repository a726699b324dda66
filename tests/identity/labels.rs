//! Only labels that swanci set count; inherited and forged ones have no effect.

use serde_json::{Value, json};

use super::{INPUTS, REVISION, SOURCE, content};
use crate::support::engine::{inspect, unique};
use crate::support::swanci::{Scene, image, outcome};

#[test]
fn inherited_labels_do_not_make_an_image_unchanged() {
    let (scene, first) = Scene::with_one_image();
    let receipt = scene.run(&first, &[]).ended(0).json();
    let inputs = image(&receipt, "a")["inputs"].as_str().unwrap();
    let genuine = image(&receipt, "a")["digest"].as_str().unwrap();
    let source = (SOURCE, "https://github.com/acme/shop");
    // The second commit was never built, so there is no parent's tag to compare with.
    scene.repository.write("README", "2");
    scene.repository.commit("second");
    scene.repository.write("README", "3");
    let third = scene.repository.commit("third");
    let parent = scene.repository.git(&["rev-parse", "HEAD^"]);
    let status = || image(&scene.build(&third, &["--dry-run"]).ended(0).json(), "a")["status"].clone();
    assert_eq!(status(), "unchanged", "the genuine image");
    let unknown = "0123456789012345678901234567890123456789";
    for revision in
        [Some(first.as_str()), Some(&parent), Some(&third), Some(unknown), Some("main"), Some(""), None]
    {
        let mut labels = vec![source, (INPUTS, inputs), ("made", "by hand")];
        labels.extend(revision.map(|revision| (REVISION, revision)));
        let by_hand = scene.registry.push_sample_image("a", "1", &labels);
        assert_eq!(status(), "planned", "{revision:?}");
        assert_eq!(scene.digest("a", "1").as_deref(), Some(by_hand.as_str()));
    }
    let receipt = scene.run(&third, &[]).ended(0).json();
    assert_eq!(
        (&image(&receipt, "a")["status"], outcome(&receipt, "a", "1").as_str()),
        (&json!("built"), "moved")
    );
    assert_eq!(scene.digest("a", &format!("sha-{first}")).as_deref(), Some(genuine));
    assert_eq!(content(&scene.image_name("a", &format!("sha-{third}")), "/file"), "1");
}

#[test]
fn a_dockerfile_cannot_set_the_labels_that_swanci_sets() {
    const FORGED: &str = "io.swanci.inputs=forged org.opencontainers.image.source=https://github.com/evil/x \
        org.opencontainers.image.revision=0123456789012345678901234567890123456789";
    let scene = Scene::new();
    let base = unique("base");
    scene.repository.image(&base, "base");
    scene.repository.write(
        &format!("{base}/Dockerfile"),
        format!("FROM scratch\nCOPY file /file\nONBUILD LABEL {FORGED}\n"),
    );
    let mut list = vec![json!({"service_name": base, "version": "1"})];
    // Some of these deceived the classic builder; the last ones need a newer engine, or fail.
    let forms: &[&str] = &[
        "FROM scratch\nCOPY file /\nLABEL FORGED",
        "FROM scratch\nCOPY file /\nlabel \"io.swanci.inputs\"=\"forged\"",
        "FROM scratch\nCOPY file /\nLABEL io.swanci.inputs forged",
        "FROM scratch\nARG L=io.swanci.inputs\nCOPY file /\nLABEL $L=forged",
        "# comment\n# escape=`\nFROM scratch\nCOPY file /\nLABEL a=b \\\n  FORGED",
        "FROM scratch\nCOPY file /\nLABEL a=b \\\x0c\nLABEL FORGED",
        "FROM scratch AS x\nCOPY file /\nLABEL FORGED\nFROM scratch AS x\nCOPY file /\nLABEL FORGED",
        "FROM scratch AS x\nCOPY file /\nFROM x AS X\nLABEL FORGED\nFROM x",
        "FROM BASE:1",
        "FROM BASE:1 AS y\nONBUILD LABEL FORGED\nFROM y",
        "FROM scratch\nCOPY <<FROM /file\nFROM scratch\nLABEL FORGED\nFROM\nLABEL FORGED",
        "FROM scratch\nCOPY file /\nLABEL a=b \\\\\nLABEL FORGED",
    ];
    for (i, form) in forms.iter().enumerate() {
        let text = form.replace("FORGED", FORGED).replace("BASE", &base);
        scene.repository.write(&format!("form{i}/Dockerfile"), text).write(&format!("form{i}/file"), "f");
        list.push(json!({"service_name": format!("form{i}"), "version": "1"}));
    }
    scene.repository.images(&list);
    let commit = scene.repository.commit("forged");
    let built = scene.build(&commit, &[]).json();
    for (i, form) in forms.iter().enumerate() {
        let entry = image(&built, &format!("form{i}"));
        if entry["status"] == "failed" && i >= 10 {
            continue;
        }
        assert_eq!(entry["status"], "built", "{form}: {entry}");
        let labels: Value =
            inspect(&scene.image_name(&format!("form{i}"), &format!("sha-{commit}")))["Config"]["Labels"]
                .clone();
        assert_eq!(labels[INPUTS], entry["inputs"], "{form}");
        assert_eq!(
            (&labels[SOURCE], &labels[REVISION]),
            (&json!("https://github.com/acme/shop"), &json!(commit)),
            "{form}"
        );
    }
}
