use serde_json::{Value, json};

use super::*;
use crate::pipeline::verify::{VerifiedImage, VerifyOutcome};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn change() -> Value {
    json!({"forge": "github", "repository": "acme/shop", "clone_url": "https://github.com/acme/shop.git",
           "commit": COMMIT, "branch": "main", "default_branch": "main",
           "pull_request": {"number": 5, "title": "Fix \u{1b}[31mthe page", "author": "octocat"}})
}

fn document(fields: Value) -> Value {
    let mut document = json!({"schema": 1, "change": change(), "registry": "r.example.org:443", "images": [],
        "payload_sha256": null, "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:00:09Z",
        "seconds": {"checkout": 0.5, "build": 2.0, "push": 0.75}, "outcome": "succeeded"});
    document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    document
}

fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn image(name: &str, status: &str, fields: Value) -> Value {
    let mut image = json!({"name": name, "status": status, "repository": format!("r.example.org:443/{name}"),
        "immutable_tag": format!("sha-{COMMIT}"), "tags": ["1.0"]});
    image.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    image
}

fn moved(tag: &str, outcome: &str) -> Value {
    json!({"tag": tag, "from": null, "to": digest('1'), "outcome": outcome})
}

#[test]
fn a_decision_summary_ends_with_the_next_command() {
    let build = json!({"schema": 1, "decision": "build", "reason": "pull request #5 was merged into main",
        "change": change(), "payload_sha256": "x",
        "rules": [{"rule": "event", "verdict": "pass", "detail": "pull_request closed"}]});
    assert_eq!(
        decision(&serde_json::from_value(build).unwrap(), Some("swanci build -")),
        "build: pull request #5 was merged into main\n  acme/shop main 0123456789ab\n  \
         #5 Fix \\u{1b}[31mthe page (octocat)\n  pass  event           pull_request closed\nnext: swanci build -\n"
    );
    let skip =
        json!({"schema": 1, "decision": "skip", "reason": "a ping", "change": null, "payload_sha256": "x"});
    assert_eq!(decision(&serde_json::from_value(skip).unwrap(), Some("swanci build -")), "skip: a ping\n");
    let mut open =
        json!({"schema": 1, "decision": "skip", "reason": "open", "change": change(), "payload_sha256": "x"});
    open["change"]["commit"] = Value::Null;
    let shown = decision(&serde_json::from_value(open).unwrap(), Some("swanci build -"));
    assert_eq!(shown.lines().nth(1), Some("  acme/shop main"));
    assert!(!shown.contains("next:"), "{shown}");
}

#[test]
fn a_build_summary_counts_and_lists_the_images() {
    let images = json!([
        image("httpd", "built", json!({"seconds": 1.84})),
        image("db", "unchanged", json!({})),
        image("vm", "skipped", json!({"reason": "its type is `AMI`; only `Docker` is built"})),
        image("web-frontend", "failed", json!({"error": "exit code 1"})),
        image("cache", "planned", json!({"reason": "its inputs changed"})),
    ]);
    let text = built(&serde_json::from_value(document(json!({ "images": images }))).unwrap(), None);
    assert_eq!(
        text,
        "acme/shop main 0123456789ab: 1 built, 1 to build, 1 unchanged, 1 skipped, 1 failed\n\
         \x20 httpd         built      1.84s\n  db            unchanged\n\
         \x20 vm            skipped    its type is `AMI`; only `Docker` is built\n\
         \x20 web-frontend  failed\n  cache         to build   its inputs changed\n"
    );
    let local = json!({"registry": null, "images": [{"name": "a", "status": "built", "repository": "a",
        "immutable_tag": format!("sha-{COMMIT}"), "seconds": 1.0}]});
    let text = built(&serde_json::from_value(document(local)).unwrap(), Some("swanci push -"));
    assert!(text.contains(&format!("a  built  a:sha-{COMMIT}\nnext: swanci push -\n")), "{text}");
}

#[test]
fn a_receipt_summary_ends_with_the_pull_commands() {
    let superseded = json!({"digest": digest('2'), "note": "the registry's image was kept",
        "moved": [moved("1.0", "superseded")]});
    let images = json!([
        image("httpd", "built", json!({"digest": digest('1'), "moved": [moved("1.0", "moved")]})),
        image("db", "unchanged", superseded),
        image("vm", "skipped", json!({"reason": "its type is `AMI`"})),
    ]);
    let text = receipt(&serde_json::from_value(document(json!({ "images": images }))).unwrap());
    assert_eq!(
        text,
        format!(
            "acme/shop main 0123456789ab: 2 images in the registry (3.2s)\n  db: the registry's image was kept\n  \
             db:1.0: stays where it is: a newer commit holds it\n  vm: skipped: its type is `AMI`\n  \
             docker pull r.example.org:443/httpd:1.0\n  docker pull r.example.org:443/db:sha-{COMMIT}\n"
        )
    );
    let failed = json!({"outcome": "failed", "error": "no", "images": [
        image("httpd", "built", json!({"digest": digest('1'), "moved": [moved("1.0", "restored")]}))]});
    let text = receipt(&serde_json::from_value(document(failed)).unwrap());
    assert!(text.starts_with("acme/shop main 0123456789ab: the push failed\n"), "{text}");
    assert!(text.contains("httpd:1.0: put back") && !text.contains("docker pull"), "{text}");
    let empty = receipt(&serde_json::from_value(document(json!({}))).unwrap());
    assert_eq!(empty, "acme/shop main 0123456789ab: nothing to push\n");
}

fn verified(name: &str, tag: &str, found: Option<char>) -> VerifiedImage {
    VerifiedImage {
        name: name.to_owned(),
        tag: tag.parse().unwrap(),
        expected: digest('1').parse().unwrap(),
        found: found.map(|digit| digest(digit).parse().unwrap()),
    }
}

#[test]
fn a_verification_summary_counts_tags_and_images() {
    let immutable = format!("sha-{COMMIT}");
    let of = |images| verification(&Verification { schema: 1, outcome: VerifyOutcome::Intact, images });
    // Drift does not include moving tags that moved later.
    let all = vec![
        verified("a", &immutable, Some('1')),
        verified("a", "1.0", Some('2')),
        verified("b", &immutable, Some('1')),
    ];
    assert_eq!(of(all), "3 tags of 2 images intact\n");
    assert_eq!(of(vec![verified("a", "1.0", Some('1'))]), "1 tag of 1 image intact\n");
    assert_eq!(of(Vec::new()), "0 tags of 0 images intact\n");
    let text = of(vec![verified("a", &immutable, Some('2')), verified("a", "1.0", None)]);
    let changed = digest('2');
    assert_eq!(
        text,
        format!(
            "2 of 2 tags of 1 image drifted\n  a:{immutable}  changed to {changed}\n  a:1.0{}  gone\n",
            " ".repeat(40 - 5)
        )
    );
}

fn caught(branch: &str, outcome: CatchupOutcome) -> CaughtUp {
    let (error, reason) = match outcome {
        CatchupOutcome::Failed => (Some("exit code 1".to_owned()), None),
        CatchupOutcome::Planned => (None, Some("not in the registry: httpd".to_owned())),
        CatchupOutcome::Present
        | CatchupOutcome::Built
        | CatchupOutcome::Finished
        | CatchupOutcome::FailedBefore
        | CatchupOutcome::Empty
        | CatchupOutcome::Invalid => (None, None),
    };
    CaughtUp {
        repository: "acme/shop".parse().unwrap(),
        branch: branch.parse().unwrap(),
        commit: COMMIT.parse().unwrap(),
        outcome,
        receipt: None,
        reason,
        error,
    }
}

#[test]
fn a_catchup_summary_is_grouped_by_branch() {
    use CatchupOutcome::{Built, Failed, Planned, Present};
    let of = |busy, commits| catchup(&CatchupDocument { schema: 1, busy, commits });
    let commits =
        vec![caught("main", Present), caught("main", Built), caught("main", Failed), caught("dev", Planned)];
    assert_eq!(
        of(false, commits),
        "acme/shop main: 1 built, 1 failed, 1 present\n  0123456789ab  built\n  0123456789ab  failed  exit code 1\n\
         acme/shop dev: 1 to build\n  0123456789ab  to build  not in the registry: httpd\n"
    );
    assert_eq!(of(false, vec![caught("main", Present)]), "acme/shop main: 1 present\n");
    assert_eq!(of(false, Vec::new()), "no branch to look at\n");
    assert!(of(true, Vec::new()).starts_with("busy: "));
}

#[test]
fn the_next_command_repeats_the_typed_one() {
    for (typed_words, expected) in [
        (&["build", "--repo", ".", "--branch", "main"][..], "swanci build --repo . --branch main | x"),
        (
            &["build", "--repo", "a b", "--tag", "{version}"],
            "swanci build --repo 'a b' --tag '{version}' | x",
        ),
        (&["build", "c.json", "--dry-run"], "swanci build c.json | x"),
        (&["build", "-"], "append `| x`"),
    ] {
        let words = std::iter::once("swanci").chain(typed_words.iter().copied()).map(str::to_owned);
        assert_eq!(typed(words, "| x"), expected);
    }
    assert_eq!(shell_word("it's"), "'it'\\''s'");
    assert_eq!(shell_word(""), "''");
}
