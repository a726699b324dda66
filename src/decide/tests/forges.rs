//! What the forges have in common: paths in errors, missing commits, other events, random JSON.

use proptest::prelude::*;

use super::*;

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
