//! From payload to verdict: the samples, and every recorded payload if the collection is available (`SWANCI_FIXTURES`, or
//! `../shared/fixtures` next to this repository).

#![allow(clippy::unwrap_used)] // helpers of tests

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use swanci::decide::{BranchGlobs, decide, payload_sha256};
use swanci::documents::{DecisionDocument, DecisionWord};
use swanci::error::Failure;
use swanci::forge::signature::{WebhookSecret, verify};
use swanci::forge::{self, Encoding, Headers};
use swanci::model::ForgeName;

/// The number of payloads in the collection; without it, the tests report them as not run.
const FIXTURES: usize = 401;

fn verdict(
    body: &[u8],
    headers: Headers<'_>,
    branches: &BranchGlobs,
    explain: bool,
) -> Result<DecisionDocument, Failure> {
    let delivery = forge::parse(body, headers)?;
    Ok(decide(delivery, branches).into_document(payload_sha256(body), explain))
}

fn judge(body: &[u8], event: Option<&str>) -> Result<DecisionDocument, Failure> {
    verdict(body, Headers { event, ..Headers::default() }, &BranchGlobs::default(), true)
}

fn sample(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/payloads").join(format!("{name}.json"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_samples_get_the_expected_verdict() {
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
    for (name, event, forge) in [
        ("gitea_merged", "pull_request", ForgeName::Gitea),
        ("gitlab_merge", "Merge Request Hook", ForgeName::Gitlab),
    ] {
        for event in [Some(event), None] {
            let document = judge(&sample(name), event).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(document.decision, Build, "{name} with {event:?}");
            assert_eq!(document.change.unwrap().forge, Some(forge), "{name} with {event:?}");
        }
    }
}

#[test]
fn the_document_of_a_merge_matches_the_pinned_one() {
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
fn a_form_and_a_byte_order_mark_change_only_the_hash() {
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
    assert!(verdict(form.as_bytes(), json_only, &BranchGlobs::default(), false).is_err());
}

/// One row of the collection's `index.csv`. Only its last column, a note, may be quoted or contain commas.
pub(crate) struct Row {
    pub(crate) file: String,
    pub(crate) forge: String,
    pub(crate) events: Vec<Option<String>>,
    pub(crate) verdict: String,
    pub(crate) repository: String,
    branch: String,
    commit: String,
    head: String,
    number: String,
}

/// Prints text that is also shown if the test passes: the test runner captures only the print macros.
#[allow(clippy::explicit_write)] // the runner captures eprintln!
fn report(line: &str) {
    writeln!(std::io::stderr(), "{line}").unwrap();
}

/// The folder of the collection; prints what is not run if there is none.
pub(crate) fn collection(what: &str) -> Option<PathBuf> {
    let place = std::env::var_os("SWANCI_FIXTURES").map(PathBuf::from);
    let named = place.is_some();
    let place = place.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"));
    if place.join("index.csv").is_file() {
        return Some(place);
    }
    assert!(!named, "SWANCI_FIXTURES is {}, which has no index.csv", place.display());
    report(&format!("NOT RUN: {what}; SWANCI_FIXTURES is not set and {} does not exist", place.display()));
    None
}

pub(crate) fn rows(collection: &Path) -> Vec<Row> {
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
            // `A|B`: either header is possible. The header may be absent. For recordings with an unknown header (`n`) the
            // index has a guess, which must not change the verdict.
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

/// The verdict of the index, with an explicit or inferred forge, and with each event header or none.
#[test]
fn every_recorded_payload_gets_its_verdict() {
    let Some(collection) = collection(&format!("{FIXTURES} recorded payloads")) else { return };
    let rows = rows(&collection);
    assert_eq!(rows.len(), FIXTURES);
    let (mut verdicts, mut builds) = (0, 0);
    for row in &rows {
        let body = std::fs::read(collection.join(&row.file)).unwrap();
        let forge: ForgeName = row.forge.parse().unwrap();
        for (forge_named, event) in
            [Some(forge), None].iter().flat_map(|f| row.events.iter().map(move |e| (*f, e)))
        {
            let headers = Headers { event: event.as_deref(), forge: forge_named, ..Headers::default() };
            let judged = verdict(&body, headers, &BranchGlobs::default(), true);
            let at = format!("{} with {event:?}, {forge_named:?}: {judged:?}", row.file);
            let document = judged.unwrap_or_else(|e| panic!("{}: {e}", row.file));
            // The body of Data Center has the event too; only Cloud's example of a merge needs its header.
            let needs_header =
                row.file.ends_with("go-playground-webhooks/bitbucket/pull-request-merged.json");
            let word = match row.verdict.as_str() {
                "build" if !needs_header || event.is_some() => DecisionWord::Build,
                "build" | "skip" => DecisionWord::Skip,
                other => panic!("{other}"),
            };
            assert_eq!(document.decision, word, "{at}");
            verdicts += 1;
            let Some(change) = document.change else { continue };
            assert_eq!(change.repository.as_str(), row.repository, "{at}");
            assert_eq!(change.branch.as_ref().map(|b| b.as_str()).unwrap_or_default(), row.branch, "{at}");
            if word == DecisionWord::Skip {
                continue;
            }
            builds += 1;
            let pull = change.pull_request.as_ref().expect("a merge has a pull request");
            assert_eq!(pull.number.to_string(), row.number, "{at}");
            let landed = change
                .commit
                .as_ref()
                .map(|c| c.as_str())
                .or(pull.landed_prefix.as_ref().map(|c| c.as_str()));
            assert_eq!(landed.unwrap_or_default(), row.commit, "{at}");
            assert_eq!(change.commit.is_some(), row.commit.len() == 40, "{at}");
            let head = pull.head.as_ref().map(|head| head.as_str()).unwrap_or_default();
            assert_eq!(head, if row.head.len() == 40 { row.head.as_str() } else { "" }, "{at}");
            if forge_named.is_some() {
                assert_eq!(change.forge, Some(forge), "{at}");
            }
        }
    }
    report(&format!("{verdicts} verdicts, {builds} of them build"));
    // 20 merges with one event header and one with two.
    assert_eq!(builds, (20 * 2 + 3) * 2 - 2, "with an explicit or inferred forge, with and without headers");
}

/// One delivery that was recorded from a real server.
pub(crate) struct Recording {
    pub(crate) name: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) merged: bool,
    pub(crate) secret: String,
}

impl Recording {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

pub(crate) fn recordings(folder: &Path) -> Vec<Recording> {
    let index = std::fs::read_to_string(folder.join("index.csv")).unwrap();
    let mut lines = index.lines();
    assert_eq!(lines.next(), Some("name,event,content_type,done,expected,landed_sha,secret"));
    lines
        .map(|line| {
            // Only the fourth column may be quoted.
            let (name, rest) = line.split_once(',').unwrap();
            let mut from_end = rest.rsplitn(4, ',');
            let secret = from_end.next().unwrap().to_owned();
            let expected = from_end.nth(1).unwrap();
            let read = |extension: &str| std::fs::read(folder.join(format!("{name}.{extension}"))).unwrap();
            let headers: serde_json::Value = serde_json::from_slice(&read("headers.json")).unwrap();
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            let headers = match headers.get("headers").and_then(|list| list.as_array()) {
                Some(list) => list.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
                None => headers.as_object().unwrap().iter().map(|(k, v)| (k.clone(), text(v))).collect(),
            };
            let merged = match expected {
                "build" => true,
                "skip" | "ping" => false,
                other => panic!("{name}: {other}"),
            };
            Recording { name: name.to_owned(), headers, body: read("body"), merged, secret }
        })
        .collect()
}

#[test]
fn every_recording_of_a_real_gogs_and_gitbucket_gets_its_verdict() {
    let Some(collection) = collection("the recordings of Gogs and GitBucket") else { return };
    for (folder, forge) in [("gogs", ForgeName::Gogs), ("gitbucket", ForgeName::Gitbucket)] {
        let recordings = recordings(&collection.join("recorded").join(folder));
        assert!(recordings.len() > 15, "{}", recordings.len());
        for recording in recordings {
            let event = recording.header("x-github-event");
            for (forge_named, event) in [(Some(forge), event), (None, event), (None, None)] {
                let headers = Headers { event, forge: forge_named, ..Headers::default() };
                let document = verdict(&recording.body, headers, &BranchGlobs::default(), true).unwrap();
                let at = format!("{} {event:?} {forge_named:?}: {}", recording.name, document.reason);
                assert_eq!(document.decision == DecisionWord::Build, recording.merged, "{at}");
                let Some(change) = document.change else { continue };
                assert_eq!(change.repository.as_str(), "acme/shop", "{at}");
                if !recording.merged {
                    continue;
                }
                assert_eq!(change.forge, Some(forge), "{at}");
                assert_eq!(change.commit, None, "{at}: neither forge names the commit that landed");
                let pull = change.pull_request.unwrap();
                assert!(pull.head.is_some() && pull.merged_at.is_some(), "{at}");
            }
            let secret = WebhookSecret::new(vec![recording.secret.clone().into()]).unwrap();
            assert!(is_signed_by(&recording, forge, &secret), "{}", recording.name);
            let other = WebhookSecret::new(vec!["another".into()]).unwrap();
            assert!(!is_signed_by(&recording, forge, &other), "{}", recording.name);
        }
    }
}

/// GitBucket signs the body, Gogs the JSON in it.
fn is_signed_by(recording: &Recording, forge: ForgeName, secret: &WebhookSecret) -> bool {
    verify(
        forge,
        &|name| recording.header(name),
        &recording.body,
        Encoding::Detect,
        secret,
        SystemTime::now(),
    )
    .is_ok()
}

#[test]
fn an_explicit_forge_overrides_detection() {
    let named = |forge| {
        let headers = Headers { forge: Some(forge), ..Headers::default() };
        verdict(&sample("gitea_merged"), headers, &BranchGlobs::default(), false)
    };
    assert_eq!(named(ForgeName::Github).unwrap().decision, DecisionWord::Build);
    for forge in [ForgeName::Gitea, ForgeName::Forgejo, ForgeName::Gogs, ForgeName::Gitbucket] {
        let change = named(forge).unwrap().change.unwrap();
        assert_eq!(change.forge, Some(forge));
        let says = matches!(forge, ForgeName::Gitea | ForgeName::Forgejo);
        assert_eq!(change.commit.is_some(), says, "{forge}");
    }
    for forge in [ForgeName::Gitlab, ForgeName::Bitbucket, ForgeName::BitbucketServer] {
        assert_eq!(named(forge).unwrap().decision, DecisionWord::Skip, "{forge}");
    }
    let own = Headers { forge: Some(ForgeName::Github), ..Headers::default() };
    let document = br#"{"schema":1,"decision":"build","change":null}"#;
    let refused = verdict(document, own, &BranchGlobs::default(), false).unwrap_err();
    assert_eq!(refused.hint.as_deref(), Some("give it to `swanci build`"));
}

/// Those with SHA-256, and GitLab's; swanci accepts no others.
#[test]
fn the_published_signatures_verify_and_the_broken_ones_do_not() {
    let Some(collection) = collection("the published signatures") else { return };
    let vectors: serde_json::Value =
        serde_json::from_slice(&std::fs::read(collection.join("signatures.json")).unwrap()).unwrap();
    let mut tried = 0;
    for vector in vectors.as_array().unwrap().iter().filter(|v| v["forge"] != "generic") {
        let text = |key: &str| vector[key].as_str();
        let body = match text("body_file") {
            Some(file) => std::fs::read(collection.join(file)).unwrap(),
            None => text("body").unwrap().as_bytes().to_vec(),
        };
        let forge: ForgeName = text("forge").unwrap().parse().unwrap();
        let header = text("header").unwrap().to_ascii_lowercase();
        let headers = |name: &str| match name {
            name if name == header => text("value"),
            "webhook-id" => Some("f5e5f430-f57b-4e6e-9fac-d9128cd7232f"),
            "webhook-timestamp" => Some("1700000000"),
            _ => None,
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + 60);
        let encoding = Encoding::from_content_type(text("content_type").unwrap()).unwrap();
        let valid = WebhookSecret::new(vec![text("secret").unwrap().into()])
            .is_ok_and(|secret| verify(forge, &headers, &body, encoding, &secret, now).is_ok());
        assert_eq!(valid, text("expect") == Some("valid"), "{vector}");
        tried += 1;
    }
    assert_eq!(tried, 49);
}
