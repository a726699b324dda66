//! From payload to verdict: our own samples always, and every recorded payload where the collection is at hand
//! (`SWANCI_FIXTURES`, or `../shared/fixtures` beside this repository).

#![allow(clippy::unwrap_used)] // helpers of tests

use std::io::Write as _;
use std::path::{Path, PathBuf};

use swanci::decide::{Policy, verdict};
use swanci::documents::{DecisionDocument, DecisionWord};
use swanci::forge::signature::WebhookSecret;
use swanci::forge::{Encoding, Headers, PayloadError};
use swanci::model::ForgeName;

/// How many payloads the collection holds; a clone without it reports them as not run.
const FIXTURES: usize = 401;

fn judge(body: &[u8], event: Option<&str>) -> Result<DecisionDocument, PayloadError> {
    verdict(body, Headers { event, ..Headers::default() }, &Policy::default(), true)
}

fn sample(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/payloads").join(format!("{name}.json"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn our_own_samples_get_the_right_verdict() {
    use DecisionWord::{Build, Skip};
    for (name, event, expected) in [
        ("merged", "pull_request", Build),
        ("merged_sparse", "pull_request", Build),
        ("closed_unmerged", "pull_request", Skip),
        ("labeled_after_merge", "pull_request", Skip),
        ("review", "pull_request_review", Skip),
        ("ping", "ping", Skip),
        ("push", "push", Skip),
    ] {
        for event in [Some(event), None] {
            let document = judge(&sample(name), event).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(document.decision, expected, "{name} with {event:?}: {}", document.reason);
        }
    }
    for (name, forge) in [("gitea_merged", "Gitea, Gogs or Forgejo"), ("gitlab_merge", "GitLab")] {
        for event in [Some("pull_request"), None] {
            assert!(
                matches!(judge(&sample(name), event), Err(PayloadError::OtherForge { forge: f, .. }) if f == forge),
                "{name} with {event:?}"
            );
        }
    }
}

#[test]
fn the_document_of_a_merge_is_the_one_that_is_pinned() {
    let body = sample("merged");
    let document = serde_json::to_value(judge(&body, None).unwrap()).unwrap();
    assert_eq!(
        document,
        serde_json::json!({
            "schema": 1, "decision": "build", "reason": "pull request #5 was merged into develop",
            "change": {
                "forge": "github", "repository": "juanswan13/sd2018b-exam2",
                "clone_url": "https://github.com/juanswan13/sd2018b-exam2.git",
                "commit": "3f0a4a6f6e3c0a8f1c8e4d3a6f0f5b1d2c9e7a10", "branch": "develop",
                "default_branch": "master",
                "pull_request": {
                    "number": 5, "title": "Serve the page over TLS", "author": "juanswan13",
                    "url": "https://github.com/juanswan13/sd2018b-exam2/pull/5",
                    "head": "b7e1c55d9a4e2f60718293a4b5c6d7e8f9012345",
                },
            },
            "payload_sha256": swanci::decide::payload_sha256(&body),
            "rules": [
                {"rule": "event", "verdict": "pass", "detail": "pull_request closed"},
                {"rule": "action", "verdict": "pass", "detail": "closed"},
                {"rule": "merged", "verdict": "pass", "detail": "merged is true"},
                {"rule": "branch", "verdict": "pass", "detail": "develop; every branch is built"},
            ],
        })
    );
}

#[test]
fn a_form_and_a_byte_order_mark_change_nothing_but_the_hash() {
    let json = sample("merged");
    let form: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("payload", std::str::from_utf8(&json).unwrap())
        .finish();
    let bom = [b"\xef\xbb\xbf".as_slice(), &json].concat();
    let expected = judge(&json, None).unwrap();
    for body in [form.as_bytes(), &bom] {
        let document = judge(body, None).unwrap();
        assert_eq!(document.payload_sha256, swanci::decide::payload_sha256(body));
        assert_ne!(document.payload_sha256, expected.payload_sha256);
        assert_eq!(document.change, expected.change);
        assert_eq!(document.reason, expected.reason);
    }
    let json_only = Headers { encoding: Encoding::Json, ..Headers::default() };
    assert!(verdict(form.as_bytes(), json_only, &Policy::default(), false).is_err());
}

/// One row of the collection's `index.csv`. Only its last column, a note, is ever quoted or holds commas.
struct Row {
    file: String,
    forge: String,
    events: Vec<Option<String>>,
    verdict: String,
    repository: String,
    branch: String,
    commit: String,
    head: String,
    number: String,
}

/// Says something that also shows when the test passes: the test runner captures only the print macros.
#[allow(clippy::explicit_write)] // eprintln! is what the runner captures
fn tell(line: &str) {
    writeln!(std::io::stderr(), "{line}").unwrap();
}

/// Where the collection is; `None` says on the test's output what was not run.
pub(crate) fn collection(what: &str) -> Option<PathBuf> {
    let place = std::env::var_os("SWANCI_FIXTURES").map(PathBuf::from);
    let named = place.is_some();
    let place = place.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"));
    if place.join("index.csv").is_file() {
        return Some(place);
    }
    assert!(!named, "SWANCI_FIXTURES names {}, which holds no index.csv", place.display());
    tell(&format!("NOT RUN: {what}; SWANCI_FIXTURES is not set and {} is not there", place.display()));
    None
}

fn rows(collection: &Path) -> Vec<Row> {
    let index = std::fs::read_to_string(collection.join("index.csv")).unwrap();
    let mut lines = index.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
    lines
        .map(|line| {
            let fields: Vec<&str> = line.splitn(header.len(), ',').collect();
            assert!(
                fields.len() == header.len() && !fields[..header.len() - 1].concat().contains('"'),
                "{line}"
            );
            let field = |name: &str| fields[column(name)].to_owned();
            // `A|B`: the payload comes under either header. The header may be absent, and for recordings whose header
            // is not known (`n`) the index gives a guess that may be wrong, but must not change the verdict.
            let mut events = vec![None];
            events.extend(
                field("event_header").split('|').filter(|e| !e.is_empty()).map(|e| Some(e.to_owned())),
            );
            Row {
                file: field("file"),
                forge: field("forge"),
                events,
                verdict: field("verdict"),
                repository: field("repository"),
                branch: field("branch"),
                commit: field("commit"),
                head: field("head"),
                number: field("number"),
            }
        })
        .collect()
}

#[test]
fn every_recorded_payload_gets_its_verdict() {
    let Some(collection) = collection(&format!("{FIXTURES} recorded payloads")) else { return };
    let rows = rows(&collection);
    assert_eq!(rows.len(), FIXTURES);
    let (mut github, mut builds, mut marked, mut unmarked) = (0, 0, 0, Vec::new());
    for row in &rows {
        let body = std::fs::read(collection.join(&row.file)).unwrap();
        for event in &row.events {
            let judged = judge(&body, event.as_deref());
            let at = format!("{} with {event:?}: {judged:?}", row.file);
            if row.forge == "github" {
                let document = judged.unwrap_or_else(|e| panic!("{}: {e}", row.file));
                let word = if row.verdict == "build" { DecisionWord::Build } else { DecisionWord::Skip };
                assert_eq!(document.decision, word, "{at}");
                if word == DecisionWord::Build {
                    let change = document.change.expect("a build has its change");
                    let pull = change.pull_request.expect("a merge has its pull request");
                    assert_eq!(change.repository.as_str(), row.repository, "{at}");
                    assert_eq!(change.branch.expect("a branch").as_str(), row.branch, "{at}");
                    assert_eq!(change.commit.expect("a commit").as_str(), row.commit, "{at}");
                    assert_eq!(pull.head.expect("a head").as_str(), row.head, "{at}");
                    assert_eq!(pull.number.to_string(), row.number, "{at}");
                    builds += 1;
                } else if let Some(change) = document.change {
                    assert_eq!(change.repository.as_str(), row.repository, "{at}");
                    assert_eq!(change.branch.map(String::from).unwrap_or_default(), row.branch, "{at}");
                }
                github += 1;
            } else {
                match judged {
                    Err(PayloadError::OtherForge { forge, .. }) => {
                        let name = match row.forge.as_str() {
                            "gitlab" => "GitLab",
                            "bitbucket" => "Bitbucket Cloud",
                            "bitbucket-server" => "Bitbucket Data Center (Server)",
                            _ => "Gitea, Gogs or Forgejo",
                        };
                        assert_eq!(forge, name, "{at}");
                        marked += 1;
                    }
                    Err(e) => panic!("{}: {e}", row.file),
                    Ok(document) => {
                        assert_eq!(document.decision, DecisionWord::Skip, "{at}");
                        assert_eq!(row.verdict, "skip", "{at}");
                        unmarked.push(row.file.clone());
                    }
                }
            }
        }
    }
    unmarked.dedup();
    tell(&format!(
        "{github} verdicts on GitHub's, {builds} of them build; {marked} refused by a mark; {} files without one",
        unmarked.len()
    ));
    assert_eq!(rows.iter().filter(|r| r.forge == "github").count(), 130);
    assert_eq!(builds, 2 * 6, "six merges, with and without their header");
    assert!(marked > 2 * 250, "{marked}");
    // About ten hand-made samples of Gogs have only keys that GitHub has too.
    assert!(unmarked.iter().all(|file| file.contains("/gogs/")), "{unmarked:?}");
}

#[test]
fn every_recording_of_a_real_gogs_and_gitbucket_is_named() {
    let Some(collection) = collection("the recordings of Gogs and GitBucket") else { return };
    for (folder, name) in [("gogs", "Gitea, Gogs or Forgejo"), ("gitbucket", "GitBucket")] {
        let bodies: Vec<PathBuf> = std::fs::read_dir(collection.join("recorded").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "body"))
            .collect();
        assert!(bodies.len() > 10, "{}", bodies.len());
        for path in bodies {
            let judged = judge(&std::fs::read(&path).unwrap(), Some("pull_request"));
            assert!(
                matches!(judged, Err(PayloadError::OtherForge { forge, .. }) if forge == name),
                "{}: {judged:?}",
                path.display()
            );
        }
    }
}

#[test]
fn a_forge_that_a_person_named_is_believed() {
    let named = |forge| {
        let headers = Headers { forge: Some(forge), ..Headers::default() };
        verdict(&sample("gitea_merged"), headers, &Policy::default(), false)
    };
    assert_eq!(named(ForgeName::Github).unwrap().decision, DecisionWord::Build);
    for forge in ForgeName::ALL.into_iter().filter(|forge| *forge != ForgeName::Github) {
        assert_eq!(named(forge), Err(PayloadError::Unsupported(forge.title())));
    }
    let own = Headers { forge: Some(ForgeName::Github), ..Headers::default() };
    let document = br#"{"schema":1,"decision":"build","change":null}"#;
    let refused = verdict(document, own, &Policy::default(), false).unwrap_err();
    assert_eq!(refused, PayloadError::OwnDocument { command: "build" });
}

#[test]
fn the_published_signatures_verify_and_the_broken_ones_do_not() {
    let Some(collection) = collection("14 published signatures") else { return };
    let vectors: serde_json::Value =
        serde_json::from_slice(&std::fs::read(collection.join("signatures.json")).unwrap()).unwrap();
    let mut tried = 0;
    for vector in vectors.as_array().unwrap().iter().filter(|v| v["forge"] == "github") {
        let text = |key: &str| vector[key].as_str();
        let body = match text("body_file") {
            Some(file) => std::fs::read(collection.join(file)).unwrap(),
            None => text("body").unwrap().as_bytes().to_vec(),
        };
        let valid = WebhookSecret::new(text("secret").unwrap().as_bytes().to_vec())
            .is_ok_and(|secret| secret.verifies(&body, text("value")));
        assert_eq!(valid, text("expect") == Some("valid"), "{vector}");
        tried += 1;
    }
    assert_eq!(tried, 14);
}
