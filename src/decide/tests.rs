use proptest::prelude::*;

use super::*;
use crate::error::{Failure, Kind};
use crate::forge::{self, Encoding, Headers};

const SHA: &str = "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1";

/// A merge with one field replaced by (path, JSON text); an empty text removes it.
fn merged_with(path: &str, json: &str) -> String {
    let mut value = serde_json::json!({
        "action": "closed", "number": 5,
        "pull_request": {
            "number": 5, "title": "t", "user": {"login": "u"}, "merged": true, "merge_commit_sha": SHA,
            "html_url": "https://github.com/o/r/pull/5", "base": {"ref": "develop"}, "head": {"sha": SHA},
        },
        "repository": {"full_name": "o/r", "clone_url": "https://github.com/o/r.git", "default_branch": "main"},
    });
    let mut at = &mut value;
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    for key in parents.split('.').filter(|k| !k.is_empty()) {
        at = at.get_mut(key).unwrap();
    }
    let object = at.as_object_mut().unwrap();
    object.remove(last);
    if json.is_empty() {
        return value.to_string();
    }
    object.insert(last.to_owned(), "@@".into());
    value.to_string().replace("\"@@\"", json)
}

fn verdict(
    body: &[u8],
    headers: Headers<'_>,
    branches: &BranchGlobs,
    explain: bool,
) -> Result<DecisionDocument, Failure> {
    let delivery = forge::parse(body, headers)?;
    Ok(decide(delivery, branches).into_document(payload_sha256(body), explain))
}

fn judge(text: &str) -> Result<DecisionDocument, Failure> {
    judge_as(text, None)
}

fn judge_as(text: &str, event: Option<&str>) -> Result<DecisionDocument, Failure> {
    verdict(text.as_bytes(), Headers { event, ..Headers::default() }, &BranchGlobs::default(), true)
}

/// The JSON path in an error.
fn path_in(error: &Failure) -> String {
    let text = error.to_string();
    let path = text.strip_prefix("the payload's `").and_then(|rest| rest.split('`').next());
    path.unwrap_or_default().to_owned()
}

#[test]
fn unneeded_fields_may_be_missing_or_null() {
    for path in [
        "pull_request.title",
        "pull_request.user",
        "pull_request.user.login",
        "pull_request.html_url",
        "pull_request.head",
        "pull_request.head.sha",
        "pull_request.number",
        "number",
        "repository.default_branch",
    ] {
        for json in ["", "null"] {
            let document = judge(&merged_with(path, json)).unwrap_or_else(|e| panic!("{path} {json}: {e}"));
            assert_eq!(document.decision, DecisionWord::Build, "{path} {json}");
        }
    }
    for json in ["[]", "{}", "7", "\"\"", "1e999", "\"--option\"", "\"a..b\"", "[[[[]]]]"] {
        for path in ["repository.default_branch", "repository.size", "milestone", "pull_request.labels"] {
            let document = judge(&merged_with(path, json)).unwrap_or_else(|e| panic!("{path} {json}: {e}"));
            assert_eq!(document.decision, DecisionWord::Build, "{path} {json}");
        }
    }
}

#[test]
fn a_merge_without_a_required_field_is_refused_with_its_path() {
    let long = format!("\"https://github.com/{}\"", "a".repeat(4000));
    for (path, values) in [
        (
            "pull_request.merge_commit_sha",
            &["", "null", "7", "\"\"", "\"8c1c06a\"", "\"HEAD\"", "\"--upload-pack=x\"", "[]", "\"\\ud800\""]
                [..],
        ),
        (
            "pull_request.base.ref",
            &[
                "",
                "null",
                "7",
                "\"\"",
                "\"--upload-pack=x\"",
                "\"a..b\"",
                "\"a b\"",
                "\"a\\u0000b\"",
                "\"\\udfff\"",
            ],
        ),
        (
            "repository.full_name",
            &["", "null", "7", "\"\"", "\"../x\"", "\"o/r\\n\"", "\"-o/r\"", "\"\\ud83d\""],
        ),
        (
            "repository.clone_url",
            &["", "null", "7", "\"\"", "\"--upload-pack=x\"", "\"https://x/\\u001b[2J\"", &long],
        ),
        ("pull_request.merged", &["1", "\"true\"", "[]"]),
        ("pull_request.number", &["0", "-1", "1e400", "5.5", "\"5\"", "99999999999999999999"]),
        ("pull_request.title", &["7", "\"\\ud800\"", "{}"]),
        ("pull_request.base", &["[\"develop\"]", "\"develop\""]),
        ("pull_request", &["[]", "7", "\"x\""]),
        ("repository", &["[]", "7", "\"x\""]),
    ] {
        for json in values {
            let error = judge_as(&merged_with(path, json), Some("pull_request"))
                .expect_err(&format!("{path} = {json} is refused"));
            assert_eq!(path_in(&error), path, "{json}: {error}");
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
    }
}

#[test]
fn only_a_closed_and_merged_pull_request_is_a_merge() {
    for (path, json, reason) in [
        ("pull_request.merged", "false", "pull request #5 was closed without being merged"),
        (
            "pull_request.merged",
            "null",
            "pull request #5 was closed, and the payload does not say that it was merged",
        ),
        (
            "pull_request.merged",
            "",
            "pull request #5 was closed, and the payload does not say that it was merged",
        ),
        ("action", "\"labeled\"", "pull request #5 was not closed by this event: its action is labeled"),
        ("action", "\"Closed\"", "pull request #5 was not closed by this event: its action is Closed"),
        (
            "action",
            "\"\\u001b[2J\\n\"",
            "pull request #5 was not closed by this event: its action is \\u{1b}[2J\\n",
        ),
        ("review", "{}", "the event is not a pull_request: only a merged pull request is built"),
    ] {
        let document = judge(&merged_with(path, json)).unwrap_or_else(|e| panic!("{path} {json}: {e}"));
        assert_eq!((document.decision, document.reason.as_str()), (DecisionWord::Skip, reason));
    }
}

#[test]
fn an_event_without_an_action_is_not_a_merge() {
    let skip = judge_as(&merged_with("action", ""), Some("pull_request")).unwrap();
    assert_eq!(skip.reason, "pull request #5 was not closed by this event: it has no action");
}

#[test]
fn a_skipped_pull_request_is_described_and_has_a_commit_only_if_it_landed() {
    let closed = judge(&merged_with("pull_request.merged", "false")).unwrap().change.unwrap();
    assert_eq!(closed.commit, None);
    assert_eq!(closed.pull_request.unwrap().number, 5);
    let labeled = judge(&merged_with("action", "\"labeled\"")).unwrap().change.unwrap();
    assert_eq!(labeled.commit.unwrap().as_str(), SHA);
}

#[test]
fn a_closed_pull_request_with_an_open_state_is_a_contradiction() {
    let decide = |text: &str| {
        decide(forge::parse(text.as_bytes(), Headers::default()).unwrap(), &BranchGlobs::default())
    };
    let open = merged_with("pull_request.state", "\"open\"");
    for merged in ["\"merged\":true", "\"merged\":false", "\"merged\":null", "\"unmerged\":0"] {
        let decision = decide(&open.replace("\"merged\":true", merged));
        assert!(decision.contradictory, "{merged}");
        assert!(decision.reason.contains("contradicts itself"), "{}", decision.reason);
        let document = decision.into_document(String::new(), true);
        assert_eq!(document.decision, DecisionWord::Skip);
        assert_eq!(document.change.unwrap().pull_request.unwrap().number, 5);
        let rules: Vec<_> = document.rules.unwrap().into_iter().map(|rule| rule.rule).collect();
        assert_eq!(rules, ["event", "action", "state"]);
    }
    // Before its pull request is closed, an open state is consistent.
    let opened = open.replace("\"closed\"", "\"opened\"");
    assert!(!decide(&opened).contradictory);
    for state in ["\"closed\"", "\"\"", "7", "null", ""] {
        let decision = decide(&merged_with("pull_request.state", state));
        assert!(!decision.contradictory, "{state}");
        assert!(decision.decision == DecisionWord::Build, "{state}");
    }
}

#[test]
fn the_event_header_overrides_the_body() {
    let merge = merged_with("x", "");
    for (event, expected) in [
        (Some("pull_request"), DecisionWord::Build),
        (None, DecisionWord::Build),
        (Some("push"), DecisionWord::Skip),
        (Some("pull_request_review"), DecisionWord::Skip),
        (Some("ping"), DecisionWord::Skip),
        (Some("Merge Request Hook"), DecisionWord::Skip),
        (Some("\u{1b}[2J"), DecisionWord::Skip),
        (Some(""), DecisionWord::Build),
        (Some(" "), DecisionWord::Build),
        (Some("pull_request_target"), DecisionWord::Build),
    ] {
        let document = judge_as(&merge, event).unwrap();
        assert_eq!(document.decision, expected, "{event:?}");
        assert!(!document.reason.contains(char::is_control));
    }
    let push = r#"{"ref":"refs/heads/x","repository":{"full_name":"o/r"}}"#;
    assert_eq!(judge_as(push, Some("pull_request")).unwrap().decision, DecisionWord::Skip);
    // With its header, even a merge that contains a review is a merge.
    let odd = merged_with("review", "{}");
    assert_eq!(judge_as(&odd, Some("pull_request")).unwrap().decision, DecisionWord::Build);
}

#[test]
fn anything_but_a_json_object_is_refused() {
    let bomb = "[".repeat(1_000_000);
    let nested = format!("{{\"pull_request\":{}", "{\"a\":".repeat(1_000_000));
    for text in [
        "null",
        "7",
        "\"x\"",
        "[]",
        "[\"closed\"]",
        "{",
        "{}{}",
        "{} x",
        "{\"a\":}",
        "{'a':1}",
        "{\"a\":1,}",
        "x",
        "{\"action\":\"a\",\"action\":\"b\"}",
        "{\"zen\":1,\"zen\":2}",
        &bomb,
        &nested,
        "\u{feff}",
    ] {
        let shown = &text[..text.len().min(40)];
        let error = judge(text).expect_err(shown);
        assert!(error.kind == Kind::BadInput && error.to_string().len() < 300, "{shown}: {error}");
    }
    let error = judge(&merged_with("pull_request.x", "1").replace("\"x\":1", "\"merged\":true")).unwrap_err();
    // A duplicate of a required key is an error, because parsers disagree on which one counts.
    assert_eq!(path_in(&error), "pull_request", "{error}");
    assert!(error.to_string().contains("duplicate field `merged`"), "{error}");
    // Unused values may be deeply nested: they are scanned without recursion.
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
    assert_eq!(judge(&deep).unwrap().decision, DecisionWord::Skip);
}

#[test]
fn a_ping_is_recognized_before_any_verdict() {
    let ping = forge::parse(br#"{"zen":"x","hook_id":1}"#, Headers::default()).unwrap();
    assert_eq!((ping.event, ping.repository), (Event::Ping, None));
    let headers = Headers { event: Some("ping"), encoding: Encoding::Json, forge: None };
    assert_eq!(forge::parse(b"{\"repository\":[1]}", headers).unwrap().event, Event::Ping);
    assert_eq!(judge("{\"zen\":\"x\",\"hook_id\":1}").unwrap().reason, "a ping is not a merge");
}

#[test]
fn the_repository_is_read_before_the_verdict() {
    for (text, expected) in [
        (r#"{"repository":{"full_name":"o/r"}}"#, Some("o/r")),
        (r#"{"repository":{"full_name":"../r"}}"#, None),
        (r#"{"repository":"o/r"}"#, None),
        (r#"{"repository":null}"#, None),
        ("{}", None),
    ] {
        let delivery = forge::parse(text.as_bytes(), Headers::default()).unwrap();
        assert_eq!(delivery.repository.as_ref().map(crate::model::RepoName::as_str), expected, "{text}");
    }
}

#[test]
fn branch_globs_stop_at_a_slash_like_githubs() {
    for (globs, chosen, not) in [
        (&[][..], &["main", "a/b/c"][..], &[][..]),
        (&["develop"], &["develop"], &["Develop", "develop2", "x/develop"]),
        (&["release/*"], &["release/1.x"], &["release", "release/1.x/fix", "xrelease/1"]),
        (&["release/**"], &["release/1.x", "release/1.x/fix"], &["releases/1"]),
        (&["*"], &["main"], &["a/b"]),
        (&["**"], &["main", "a/b"], &[]),
        (&["v[0-9].x", "{main,master}"], &["v1.x", "main", "master"], &["vx.x", "trunk"]),
    ] {
        let globs = BranchGlobs::new(globs).unwrap();
        for branch in chosen {
            assert!(globs.choose(&branch.parse().unwrap()), "{globs:?} {branch}");
        }
        for branch in not {
            assert!(!globs.choose(&branch.parse().unwrap()), "{globs:?} {branch}");
        }
    }
    for glob in ["", "a[", "{a", "[z-a]"] {
        let error = BranchGlobs::new(&["ok", glob]).unwrap_err();
        assert!(error.starts_with(&format!("`{glob}` is not")), "{error}");
        assert!(error.to_string().contains("branch glob"), "{error}");
    }
}

#[test]
fn an_unselected_branch_is_a_skip_with_the_reason() {
    let policy = BranchGlobs::new(&["main", "release/*"]).unwrap();
    let body = merged_with("x", "");
    let document = verdict(body.as_bytes(), Headers::default(), &policy, true).unwrap();
    assert_eq!(document.decision, DecisionWord::Skip);
    assert_eq!(
        document.reason,
        "pull request #5 was merged into develop, which is not among the branches to build"
    );
    let last = document.rules.unwrap().pop().unwrap();
    assert_eq!((last.rule.as_str(), last.verdict), ("branch", Verdict::Skip));
    assert_eq!(last.detail, "develop matches none of main, release/*");
    assert_eq!(document.change.unwrap().commit.unwrap().as_str(), SHA);
}

#[test]
fn rules_are_included_only_on_request() {
    let body = merged_with("x", "");
    let document = verdict(body.as_bytes(), Headers::default(), &BranchGlobs::default(), false).unwrap();
    assert!(!serde_json::to_string(&document).unwrap().contains("rules"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..300), event in proptest::option::of(".*")) {
        let _ = verdict(&body, Headers { event: event.as_deref(), ..Headers::default() }, &BranchGlobs::default(), true);
    }

    #[test]
    fn a_damaged_merge_neither_panics_nor_prints_control_characters(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut body = merged_with("x", "").into_bytes();
        let at = at.index(body.len());
        if cut { body.truncate(at) } else { body[at] = byte }
        let shown = match verdict(&body, Headers::default(), &BranchGlobs::default(), true) {
            Ok(document) => document.reason,
            Err(error) => error.to_string(),
        };
        prop_assert!(!shown.contains(char::is_control), "{shown:?}");
    }
}

mod forges;
