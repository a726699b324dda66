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

/// A merge of each forge with its required fields: (forge, event, payload, required paths).
fn merges() -> Vec<(ForgeName, &'static str, serde_json::Value, &'static [&'static str])> {
    let github = serde_json::from_str::<serde_json::Value>(&merged_with("x", "")).unwrap();
    let mut gogs = github.clone();
    gogs["pull_request"]["base"] = serde_json::Value::Null;
    gogs["pull_request"]["base_branch"] = "develop".into();
    let gitlab = serde_json::json!({
        "object_kind": "merge_request", "user": {"username": "u"},
        "project": {"path_with_namespace": "group/sub/r", "git_http_url": "https://h/group/sub/r.git"},
        "object_attributes": {"iid": 5, "action": "merge", "state": "merged", "target_branch": "develop",
            "merge_commit_sha": SHA, "last_commit": {"id": SHA}, "title": "t"},
    });
    let cloud = serde_json::json!({
        "pullrequest": {"id": 5, "state": "MERGED", "title": "t", "merge_commit": {"hash": "8c1c06a1a89e"},
            "destination": {"branch": {"name": "develop"}, "repository": {"full_name": "o/r"}}, "source": {}},
        "repository": {"full_name": "o/r"},
    });
    let server = serde_json::json!({
        "eventKey": "pr:merged",
        "pullRequest": {"id": 5, "state": "MERGED", "title": "t", "properties": {"mergeCommit": {"id": SHA}},
            "fromRef": {"latestCommit": SHA},
            "toRef": {"displayId": "develop", "repository": {"slug": "r", "project": {"key": "~o"}}}},
    });
    let plugin = serde_json::json!({
        "actor": {"username": "u", "displayName": "U"}, "repository": {"slug": "r", "project": {"key": "O"}},
        "pullrequest": {"id": "5", "title": "t", "fromRef": {"commit": {"hash": SHA}},
            "toRef": {"branch": {"name": "develop"}, "repository": {"fullName": "O/r"}}},
    });
    let gitea: &[&str] = &["repository.full_name", "pull_request.base.ref"];
    vec![
        (ForgeName::Github, "pull_request", github.clone(), gitea),
        (ForgeName::Gitea, "pull_request", github.clone(), gitea),
        (ForgeName::Forgejo, "pull_request", github.clone(), gitea),
        (ForgeName::Gitbucket, "pull_request", github, gitea),
        (ForgeName::Gogs, "pull_request", gogs, &["repository.full_name", "pull_request.base_branch"]),
        (
            ForgeName::Gitlab,
            "Merge Request Hook",
            gitlab,
            &["object_attributes.target_branch", "object_attributes.iid"],
        ),
        (
            ForgeName::Bitbucket,
            "pullrequest:fulfilled",
            cloud,
            &["pullrequest.destination.branch.name", "pullrequest.id"],
        ),
        (
            ForgeName::BitbucketServer,
            "pr:merged",
            server,
            &[
                "pullRequest.toRef.displayId",
                "pullRequest.toRef.repository.slug",
                "pullRequest.toRef.repository.project.key",
                "pullRequest.id",
            ],
        ),
        (ForgeName::BitbucketServer, "pullrequest:fulfilled", plugin, &["pullrequest.id"]),
    ]
}

fn place<'v>(payload: &'v mut serde_json::Value, path: &str) -> &'v mut serde_json::Value {
    path.split('.').fold(payload, |at, key| at.get_mut(key).unwrap())
}

fn judge_of(
    forge: ForgeName,
    event: Option<&str>,
    payload: &serde_json::Value,
) -> Result<DecisionDocument, Failure> {
    let headers = Headers { event, forge: Some(forge), ..Headers::default() };
    verdict(payload.to_string().as_bytes(), headers, &BranchGlobs::default(), true)
}

#[test]
fn a_merge_of_any_forge_names_the_path_of_a_missing_field() {
    for (forge, event, payload, needed) in merges() {
        let document = judge_of(forge, Some(event), &payload).unwrap_or_else(|e| panic!("{forge}: {e}"));
        assert_eq!(document.decision, DecisionWord::Build, "{forge}");
        let change = document.change.unwrap();
        assert_eq!((change.branch.unwrap().as_str(), change.pull_request.unwrap().number), ("develop", 5));
        for path in needed {
            for wrong in [
                serde_json::Value::Null,
                serde_json::json!([]),
                serde_json::json!("--x"),
                serde_json::json!(""),
            ] {
                let mut payload = payload.clone();
                *place(&mut payload, path) = wrong.clone();
                let error =
                    judge_of(forge, Some(event), &payload).expect_err(&format!("{forge} {path} {wrong}"));
                assert_eq!(path_in(&error), *path, "{forge} {wrong}: {error}");
            }
        }
    }
}

#[test]
fn without_a_commit_in_the_payload_there_is_none_in_the_change() {
    for (forge, event, mut payload, _) in merges() {
        for path in
            ["object_attributes.merge_commit_sha", "pullrequest.merge_commit", "pullRequest.properties"]
        {
            if payload.pointer(&format!("/{}", path.replace('.', "/"))).is_some() {
                *place(&mut payload, path) = serde_json::Value::Null;
            }
        }
        let change = judge_of(forge, Some(event), &payload).unwrap().change.unwrap();
        let says = matches!(forge, ForgeName::Github | ForgeName::Gitea | ForgeName::Forgejo);
        assert_eq!(change.commit.is_some(), says, "{forge}");
        let pull = change.pull_request.unwrap();
        assert_eq!(
            (pull.head.is_some(), pull.landed_prefix),
            (forge != ForgeName::Bitbucket, None),
            "{forge}"
        );
    }
    let (forge, event, mut payload, _) = merges().swap_remove(5);
    payload["object_attributes"]["merge_commit_sha"] = serde_json::Value::Null;
    payload["object_attributes"]["squash_commit_sha"] = SHA.into();
    let change = judge_of(forge, Some(event), &payload).unwrap().change.unwrap();
    assert_eq!(change.commit.unwrap().as_str(), SHA, "GitLab names the squash commit of a fast-forward");
}

#[test]
fn a_merge_request_without_its_project_belongs_to_the_target_project() {
    let (forge, event, merge, _) = merges().swap_remove(5);
    let of = |project: serde_json::Value, target: serde_json::Value, homepage: &str| {
        let mut payload = merge.clone();
        payload["project"] = project;
        payload["object_attributes"]["target"] = target;
        payload["repository"] = serde_json::json!({"homepage": homepage});
        judge_of(forge, Some(event), &payload).map(|document| document.change.unwrap().repository.to_string())
    };
    let none = || serde_json::Value::Null;
    let target =
        serde_json::json!({"path_with_namespace": "group/target", "http_url": "https://h/other/name.git"});
    assert_eq!(of(none(), target, "").unwrap(), "group/target");
    let target = serde_json::json!({"name": "N", "http_url": "https://h/group/sub/name.git"});
    assert_eq!(of(none(), target, "").unwrap(), "group/sub/name");
    assert_eq!(of(none(), none(), "https://h/group/name").unwrap(), "group/name");
    for (project, path) in [
        (none(), "project.path_with_namespace"),
        (serde_json::json!({}), "project.path_with_namespace"),
        (serde_json::json!({"path_with_namespace": "a b"}), "project.path_with_namespace"),
        (serde_json::json!(7), "project"),
    ] {
        assert_eq!(path_in(&of(project, none(), "https://h/").unwrap_err()), path);
    }
}

#[test]
fn a_merge_in_another_state_is_a_contradiction_and_other_events_are_skips() {
    for (forge, event, mut payload, _) in merges() {
        for other in
            ["push", "Note Hook", "pullrequest:comment_created", "pr:comment:added", "pull_request_review"]
        {
            let document = judge_of(forge, Some(other), &payload).unwrap();
            assert_eq!(document.decision, DecisionWord::Skip, "{forge} {other}");
        }
        let root = ["pull_request", "object_attributes", "pullrequest", "pullRequest"]
            .into_iter()
            .find(|key| payload.get(key).is_some())
            .unwrap();
        // GitBucket closes open pull requests from the target branch of a merge, with `merged: false`.
        payload[root]["state"] = "open".into();
        let headers = Headers { event: Some(event), forge: Some(forge), ..Headers::default() };
        let decision =
            decide(forge::parse(payload.to_string().as_bytes(), headers).unwrap(), &BranchGlobs::default());
        assert!(decision.contradictory, "{forge}: {}", decision.reason);
        if forge == ForgeName::Gitbucket {
            payload[root]["merged"] = false.into();
            let headers = Headers { event: Some(event), forge: Some(forge), ..Headers::default() };
            let closed = forge::parse(payload.to_string().as_bytes(), headers).unwrap();
            assert!(!decide(closed, &BranchGlobs::default()).contradictory);
        }
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
        prop_oneof!["merged", "MERGED", "closed", "merge", "open"].prop_map(Into::into),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
            proptest::collection::hash_map("[a-z_]{1,10}", inner, 0..3)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Every path in a JSON value.
fn places(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    if let Some(object) = value.as_object() {
        for (key, value) in object {
            let path = format!("{at}/{key}");
            places(value, &path, found);
            found.push(path);
        }
    }
}

proptest! {
    #[test]
    fn a_payload_without_a_merged_state_is_never_a_build(
        which in 0..9_usize, at in any::<prop::sample::Index>(), value in any_json(), with_event in any::<bool>(),
        state in any_json(), event in proptest::option::of(".{0,20}"),
    ) {
        let (forge, own_event, mut payload, _) = merges().swap_remove(which);
        let mut paths = Vec::new();
        places(&payload, "", &mut paths);
        *payload.pointer_mut(&paths[at.index(paths.len())]).unwrap() = value;
        let event = if with_event { Some(own_event) } else { event.as_deref() };
        // Replaces each value: parsing never panics, and messages contain no control character.
        match judge_of(forge, event, &payload) {
            Ok(document) => prop_assert!(!document.reason.contains(char::is_control)),
            Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
        }
        // Replaces the evidence of the merge.
        let (path, merged) = match forge {
            ForgeName::Gitlab => ("/object_attributes/state", "merged"),
            ForgeName::Bitbucket => ("/pullrequest/state", "MERGED"),
            ForgeName::BitbucketServer if which == 7 => ("/pullRequest/state", "MERGED"),
            // The plugin's payloads announce a merge only by their event.
            ForgeName::BitbucketServer => return Ok(()),
            ForgeName::Github | ForgeName::Gitea | ForgeName::Forgejo | ForgeName::Gogs | ForgeName::Gitbucket => {
                ("/pull_request/merged", "")
            }
        };
        prop_assume!(state != serde_json::json!(merged) && state != serde_json::json!(true));
        prop_assume!(!state.as_str().is_some_and(|state| state.split('|').any(|state| state == merged)));
        let (_, _, mut payload, _) = merges().swap_remove(which);
        let (parent, key) = path.rsplit_once('/').unwrap();
        payload.pointer_mut(parent).unwrap()[key] = state;
        if let Ok(document) = judge_of(forge, event, &payload) {
            prop_assert_eq!(document.decision, DecisionWord::Skip);
        }
    }
}
