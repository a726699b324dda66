//! `swanci check`: problems of the configuration and of images.json, each with its position.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails loudly")]

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::program::swanci;
use crate::support::repository::Repository;

fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), files);
    dir
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[test]
fn every_configuration_error_has_a_position_and_a_suggestion() {
    let dir = tree(&[(
        "swanci.toml",
        "host = \"x\"\n[registry]\nhots = \"r.example.org\"\nplain_http = \"yes\"\n[build]\n  jobs = 0\n\
         tags = [\"ok\", \"{verison}\"]\nzebra = 1\n[[repository]]\nname = \"shop\"\nbranch = [\"main\"]\n",
    )]);
    let ran = swanci(dir.path(), &[], &["check"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    for (line, starts, says) in [
        (0, "swanci.toml:1:1: host: ", "`host` belongs to [registry]"),
        (1, "swanci.toml:3:1: registry.hots: ", "did you mean `host`?"),
        (2, "swanci.toml:4:1: registry.plain_http: ", "expected true or false, found \"yes\""),
        (3, "swanci.toml:6:3: build.jobs: ", "0 is not between 1 and 256"),
        (4, "swanci.toml:7:15: build.tags[1]: ", "did you mean `{version}`?"),
        (5, "swanci.toml:8:1: build.zebra: ", "known here: jobs, timeout"),
        (6, "swanci.toml:10:1: repository[0].name: ", "write OWNER/NAME"),
        (7, "swanci.toml:11:1: repository[0].branch: ", "did you mean `branches`?"),
    ] {
        assert!(lines[line].starts_with(starts) && lines[line].contains(says), "{}", ran.out);
    }
    assert_eq!(lines.len(), 8, "{}", ran.out);
    assert_eq!(ran.err, "error: 8 problems were found\n");
}

#[test]
fn messages_use_the_words_of_the_files_and_not_of_the_program() {
    for (text, says) in [
        ("[repository]\nname = \"acme/shop\"\n", "write [[repository]]"),
        ("[forge]\nkind = \"gitea\"\n", "write [[forge]]"),
        ("[[registry]]\nhost = \"r.example.org\"\n", "write [registry]"),
        ("build = 1\n", "expected a table, found 1"),
        ("[build]\njobs = \"two\"\n", "expected a whole number, found \"two\""),
        ("[build]\njobs = 1.5\n", "expected a whole number, found 1.5"),
        ("[build]\ntags = \"{version}\"\n", "expected a list, found \"{version}\""),
        ("[build]\ntimeout = 30\n", "expected a string, found 30"),
        ("[registry]\nca_file = []\n", "expected a path, found a list"),
        ("[[repository]]\nbranches = [\"main\"]\n", "`name` is missing"),
        ("[[repository]]\nname = \"acme/shop\"\nsecrets = [\"npm\"]\n", "expected a table, found a list"),
        ("[[forge]]\nkind = \"gitea\"\nurl = \"https://h\"\nsecret_file = 1\n", "a path or a list of paths"),
        ("[build\n", "this is not TOML"),
        ("[build]\njobs = 99999999999999999999\n", "swanci.toml:2:"),
    ] {
        let dir = tree(&[("swanci.toml", text)]);
        let ran = swanci(dir.path(), &[], &["check"]);
        assert!(ran.code == 4 && ran.out.contains(says), "{text}: {ran:?}");
        assert!(ran.out.starts_with("swanci.toml:"), "{ran:?}");
        let told = swanci(dir.path(), &[], &["jobs"]);
        assert!(told.code == 4 && told.err.contains("swanci.toml, line "), "{told:?}");
        for word in ["usize", "i64", "sequence", "map", "newtype", "struct", "field", "Raw", "unit"] {
            assert!(!ran.out.contains(word) && !told.err.contains(word), "{word}: {ran:?} {told:?}");
        }
    }
}

#[test]
fn the_first_error_of_every_image_has_a_position() {
    let dir = tree(&[
        (
            "images.json",
            r#"{"images": [
  {"service_name": "web", "verison": "1.0"},
  {"service_name": "Api"},
  {"service_name": "wbe"},
  {"service_name": "lib", "dockerfile": "Dockerfil"},
  {"service_name": "app", "target": "finl"},
  {"service_name": "one"},
  {"service_name": "two", "context": "2"},
  {"service_name": "out"},
  {"service_name": "vm", "type": "AMI"},
  {"service_name": "web", "version": "1.0 beta", "context": "../web"}
]}"#,
        ),
        ("web/Dockerfile", "FROM scratch\n"),
        ("lib/Dockerfile", "FROM scratch\n"),
        ("app/Dockerfile", "FROM scratch AS final\n"),
        ("one/Dockerfile", "FROM two\n"),
        ("2/Dockerfile", "FROM one\n"),
    ]);
    std::os::unix::fs::symlink("/usr", dir.path().join("out")).unwrap();
    let ran = swanci(dir.path(), &[], &["check", "--json"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    let document = ran.json();
    assert_eq!((&document["outcome"], &document["configuration"]), (&"invalid".into(), &().into()));
    let problems: Vec<(u64, u64, &str, String)> = document["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            assert_eq!(p["file"], "images.json");
            let text =
                format!("{} {}", p["problem"].as_str().unwrap(), p["hint"].as_str().unwrap_or_default());
            (p["line"].as_u64().unwrap(), p["column"].as_u64().unwrap(), p["path"].as_str().unwrap(), text)
        })
        .collect();
    let expected = [
        (2, 27, "images[0].verison", "did you mean `version`?"),
        (3, 4, "images[1].service_name", "not a valid image name"),
        (4, 4, "images[2].service_name", "does not exist there is `web`"),
        (5, 27, "images[3].dockerfile", "does not exist there is `Dockerfile`"),
        (6, 27, "images[4].target", "did you mean `final`?"),
        (7, 4, "images[5].service_name", "in a circle: one, two"),
        (9, 4, "images[7].service_name", "leads out of the repository"),
        (11, 27, "images[9].version", "not a valid tag"),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for ((line, column, path, says), found) in expected.into_iter().zip(&problems) {
        assert_eq!((line, column, path), (found.0, found.1, found.2));
        assert!(found.3.contains(says), "{found:?}");
    }
}

#[test]
fn a_valid_tree_is_listed_with_its_uncommitted_files() {
    let repository = Repository::new();
    repository.image("web", "1.0").image("db", "9.6");
    repository.images(&[
        serde_json::json!({"service_name": "web", "version": "1.0"}),
        serde_json::json!({"service_name": "db"}),
    ]);
    repository.commit("first");
    let path = repository.path().display().to_string();
    let elsewhere = tree(&[("swanci.toml", "[registry]\nhost = \"r.example.org\"\n")]);
    let ran = swanci(elsewhere.path(), &[], &["check", &path]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "ok  swanci.toml\nok  2 images: web, db\n"), "{ran:?}");
    repository.write("web/new file", "x");
    let ran = swanci(elsewhere.path(), &[], &["check", &path]);
    assert!(ran.code == 0 && ran.out.contains("not committed: web/new file\n"), "{ran:?}");
    // Without a tree only the configuration is checked.
    assert_eq!(swanci(elsewhere.path(), &[], &["check"]).out, "ok  swanci.toml\n");
    let ran = swanci(elsewhere.path(), &[], &["check", "."]);
    assert!(ran.code == 4 && ran.out.contains("images.json: does not exist"), "{ran:?}");
    let ran = swanci(elsewhere.path(), &[], &["check", "nowhere"]);
    assert!(ran.code == 4 && ran.err.contains("nowhere"), "{ran:?}");
}

#[test]
fn a_wrong_variable_is_named() {
    let dir = tree(&[("Dockerfile", "FROM scratch\n")]);
    let ran = swanci(dir.path(), &[("SWANCI_BUILD_JOBS", "0")], &["check"]);
    assert!(ran.code == 4 && ran.err.contains("SWANCI_BUILD_JOBS"), "{ran:?}");
    assert_eq!(swanci(dir.path(), &[], &["check"]).code, 0);
}

#[test]
fn one_wrong_word_gets_a_helpful_message() {
    let dir = tree(&[
        ("payload.json", r#"{"action":"closed","repository":{"full_name":"acme/shop"}}"#),
        (
            "decision.json",
            r#"{"schema":1,"decision":"build","reason":"x","change":null,"payload_sha256":"x"}"#,
        ),
        ("half.json", r#"{"schema":1,"#),
    ]);
    for (arguments, code, says) in [
        (&["build", "payload.json"][..], 4, "which `swanci evaluate` reads"),
        (&["push", "decision.json"], 4, "which `swanci build` reads"),
        (&["verify", "half.json"], 4, "half.json, line 1, column 12: EOF"),
        (&["jobs", "log", "x"], 2, "a job has a number"),
        (&["serve", "--listen", "8080"], 2, "an address looks like 127.0.0.1:8080"),
        (&["evaluate", "x", "--forge", "gitub"], 2, "did you mean `github`?"),
        (&["evaluate", "x", "--forge", "zebra"], 2, "known: github, gitlab"),
        (&["chekc"], 2, "'check'"),
    ] {
        let ran = swanci(dir.path(), &[], arguments);
        assert!(ran.code == code && ran.err.contains(says), "{arguments:?}: {ran:?}");
    }
}
