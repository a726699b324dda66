//! Fakes of each forge's published API on a real socket.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::model::CommitSha;
use forge_api::{Asked, ForgeApi, Reply};

#[path = "../../../tests/support/forge_api.rs"]
mod forge_api;

const TOKEN: &str = "canary-token-of-the-api-tests";
const SHA: &str = "0123456789012345678901234567890123456789";

fn api(kind: ForgeName, server: &ForgeApi) -> Api {
    let name = match kind {
        ForgeName::Gitlab => "group/sub/shop",
        ForgeName::BitbucketServer => "~jane/shop",
        ForgeName::Github
        | ForgeName::Gitea
        | ForgeName::Forgejo
        | ForgeName::Gogs
        | ForgeName::Bitbucket
        | ForgeName::Gitbucket => "swan/shop",
    };
    let account = Account {
        kind,
        url: server.url(),
        api_url: None,
        ca_pem: None,
        user: None,
        token: SecretString::from(TOKEN),
    };
    Api::new(account, name.parse().unwrap(), Cancel::new()).unwrap()
}

fn status(state: CommitState, target_url: Option<&str>) -> CommitStatus {
    CommitStatus {
        commit: SHA.parse::<CommitSha>().unwrap(),
        state,
        description: "1 image".to_owned(),
        target_url: target_url.map(str::to_owned),
    }
}

#[test]
fn a_status_has_each_forges_format() {
    let github = json!({"state": "failure", "description": "1 image", "context": "swanci", "target_url": "https://ci/jobs/1"});
    let gitlab = json!({"state": "failed", "description": "1 image", "name": "swanci", "target_url": "https://ci/jobs/1"});
    let bitbucket = json!({"key": "swanci", "name": "swanci", "state": "FAILED", "description": "1 image", "url": "https://ci/jobs/1"});
    let bearer = format!("Bearer {TOKEN}");
    let token = format!("token {TOKEN}");
    for (kind, path, (header, value), body) in [
        (ForgeName::Github, "/api/v3/repos/swan/shop/statuses/SHA", ("authorization", &bearer), &github),
        (ForgeName::Gitea, "/api/v1/repos/swan/shop/statuses/SHA", ("authorization", &token), &github),
        (ForgeName::Forgejo, "/api/v1/repos/swan/shop/statuses/SHA", ("authorization", &token), &github),
        (ForgeName::Gitbucket, "/api/v3/repos/swan/shop/statuses/SHA", ("authorization", &token), &github),
        (
            ForgeName::Gitlab,
            "/api/v4/projects/group%2Fsub%2Fshop/statuses/SHA",
            ("private-token", &TOKEN.to_owned()),
            &gitlab,
        ),
        (
            ForgeName::Bitbucket,
            "/2.0/repositories/swan/shop/commit/SHA/statuses/build",
            ("authorization", &bearer),
            &bitbucket,
        ),
        (
            ForgeName::BitbucketServer,
            "/rest/api/latest/projects/~jane/repos/shop/commits/SHA/builds",
            ("authorization", &bearer),
            &bitbucket,
        ),
    ] {
        let server = ForgeApi::start(|_| (201, json!({})));
        api(kind, &server).set_status(&status(CommitState::Failure, Some("https://ci/jobs/1"))).unwrap();
        let asked = server.asked();
        assert_eq!(server.lines(), [format!("POST {}", path.replace("SHA", SHA))], "{kind}");
        assert_eq!(asked[0].headers.get(header), Some(value), "{kind}");
        assert_eq!(asked[0].headers["content-type"], "application/json", "{kind}");
        assert_eq!(asked[0].body, *body, "{kind}");
    }
}

#[test]
fn each_state_has_its_name_and_a_missing_link_is_omitted_or_generated() {
    let all = [CommitState::Pending, CommitState::Success, CommitState::Failure, CommitState::Error];
    for (kind, words, link) in [
        (ForgeName::Github, ["pending", "success", "failure", "error"], Value::Null),
        (ForgeName::Gitbucket, ["pending", "success", "failure", "error"], Value::Null),
        (ForgeName::Gitlab, ["pending", "success", "failed", "failed"], Value::Null),
        (
            ForgeName::Bitbucket,
            ["INPROGRESS", "SUCCESSFUL", "FAILED", "FAILED"],
            json!(format!("/swan/shop/commits/{SHA}")),
        ),
        (
            ForgeName::BitbucketServer,
            ["INPROGRESS", "SUCCESSFUL", "FAILED", "FAILED"],
            json!(format!("/projects/~jane/repos/shop/commits/{SHA}")),
        ),
    ] {
        let server = ForgeApi::start(|_| (200, json!({})));
        let api = api(kind, &server);
        all.iter().for_each(|state| api.set_status(&status(*state, None)).unwrap());
        let asked = server.asked();
        let said: Vec<&str> = asked.iter().map(|a| a.body["state"].as_str().unwrap()).collect();
        assert_eq!(said, words, "{kind}");
        assert!(asked[0].body.get("target_url").is_none(), "{kind}");
        let url = asked[0].body["url"].as_str().map(|url| json!(url.replace(&server.url(), "")));
        assert_eq!(url.unwrap_or_default(), link, "{kind}");
    }
}

#[test]
fn a_description_has_no_secret_and_fits_the_forges_limit() {
    crate::redact::register(&SecretString::from("canary-in-a-description"));
    let server = ForgeApi::start(|_| (201, json!({})));
    let text = format!("canary-in-a-description\u{1b}[1m {}", "ü".repeat(300));
    let long = CommitStatus { description: text, ..status(CommitState::Error, None) };
    api(ForgeName::Github, &server).set_status(&long).unwrap();
    let said = server.asked()[0].body["description"].as_str().unwrap().to_owned();
    assert!(said.starts_with("***\\u{1b}[1m ü") && said.ends_with('…'), "{said}");
    assert!(said.chars().count() <= LONGEST_DESCRIPTION, "{}", said.chars().count());
}

/// GitLab's response to a status that the commit already has.
fn refuses_transitions(newest: &'static str) -> ForgeApi {
    ForgeApi::start(move |asked| match asked.method.as_str() {
        "GET" => (
            200,
            json!([
                {"id": 3, "name": "swanci", "status": "failed"}, {"id": 9, "name": "swanci", "status": newest},
                {"id": 11, "name": "other", "status": "canceled"},
            ]),
        ),
        _ => (400, json!({"message": "Cannot transition status via :enqueue from :pending (Reason(s): …)"})),
    })
}

#[test]
fn gitlab_accepts_the_same_state_again_but_not_another() {
    let server = refuses_transitions("pending");
    api(ForgeName::Gitlab, &server).set_status(&status(CommitState::Pending, None)).unwrap();
    let path = "/api/v4/projects/group%2Fsub%2Fshop/repository/commits";
    assert!(server.lines()[1].starts_with(&format!("GET {path}/{SHA}/statuses?name=swanci")));
    let server = refuses_transitions("success");
    let error = api(ForgeName::Gitlab, &server).set_status(&status(CommitState::Pending, None)).unwrap_err();
    assert!(error.to_string().contains("Cannot transition"), "{error}");
}

#[test]
fn a_data_center_before_7_4_gets_the_status_by_its_older_api() {
    let old =
        |asked: &Asked| if asked.path.ends_with("/builds") { (404, json!({})) } else { (204, json!({})) };
    let server = ForgeApi::start(old);
    api(ForgeName::BitbucketServer, &server).set_status(&status(CommitState::Success, None)).unwrap();
    let asked = server.asked();
    assert_eq!(asked[1].line(), format!("POST /rest/build-status/1.0/commits/{SHA}"));
    assert_eq!(asked[1].body, asked[0].body);
}

#[test]
fn gogs_has_no_status_and_the_error_suggests_comments() {
    let server = ForgeApi::start(|_| (404, json!({})));
    let error = api(ForgeName::Gogs, &server).set_status(&status(CommitState::Success, None)).unwrap_err();
    assert!(error.to_string().contains("comment = true"), "{error}");
    assert!(server.asked().is_empty());
}

#[test]
fn the_token_is_not_sent_where_a_redirect_points() {
    let trap = ForgeApi::start(|_| (201, json!({})));
    let to = format!("{}/elsewhere", trap.url());
    let server = ForgeApi::start(move |_| (307, json!(to)));
    let error = api(ForgeName::Gitea, &server).set_status(&status(CommitState::Success, None)).unwrap_err();
    assert_eq!(error.problem, Problem::Moved);
    assert!(trap.asked().is_empty());
}

#[test]
fn a_bitbucket_login_contains_its_user_name() {
    let server = ForgeApi::start(|_| (200, json!({})));
    let account = Account {
        kind: ForgeName::Bitbucket,
        url: server.url(),
        api_url: None,
        ca_pem: None,
        user: Some("jane@example.org".to_owned()),
        token: SecretString::from(TOKEN),
    };
    let api = Api::new(account, "swan/shop".parse().unwrap(), Cancel::new()).unwrap();
    api.set_status(&status(CommitState::Success, None)).unwrap();
    let login = base64::engine::general_purpose::STANDARD.encode(format!("jane@example.org:{TOKEN}"));
    assert_eq!(server.asked()[0].headers["authorization"], format!("Basic {login}"));
}

#[test]
fn the_public_instances_have_their_own_api_addresses() {
    for (kind, url, api) in [
        (ForgeName::Github, "https://github.com", "https://api.github.com"),
        (ForgeName::Github, "https://ghe.example.org", "https://ghe.example.org/api/v3"),
        (ForgeName::Bitbucket, "https://bitbucket.org", "https://api.bitbucket.org/2.0"),
        (ForgeName::Gitlab, "https://gitlab.com", "https://gitlab.com/api/v4"),
        (ForgeName::Gogs, "https://example.org/gogs", "https://example.org/gogs/api/v1"),
        (ForgeName::BitbucketServer, "https://example.org/bb", "https://example.org/bb/rest"),
    ] {
        assert_eq!(api_of(kind, url), api);
    }
}

/// A forge that stores comments as its API documents. One comment of another user already has the mark.
fn keeps_comments(kind: ForgeName) -> ForgeApi {
    let user = |name: &str| json!({"login": name, "username": name, "uuid": name});
    let shown = move |id: u64, text: &Value, by: &str| match kind {
        ForgeName::Bitbucket => json!({"id": id, "content": {"raw": text}, "user": user(by)}),
        ForgeName::BitbucketServer => {
            json!({"id": id + 900, "action": "COMMENTED", "comment": {"id": id, "version": 4, "text": text}})
        }
        ForgeName::Gitlab => json!({"id": id, "body": text, "author": {"username": by}}),
        ForgeName::Github
        | ForgeName::Gitea
        | ForgeName::Forgejo
        | ForgeName::Gogs
        | ForgeName::Gitbucket => json!({"id": id, "body": text, "user": user(by)}),
    };
    let mut comments: BTreeMap<u64, (Value, &str)> = BTreeMap::new();
    comments.insert(1, (json!("> <!-- swanci -->\n\nquoted"), "mallory"));
    if kind != ForgeName::BitbucketServer {
        comments.insert(70, (json!("<!-- swanci -->\n\nplanted"), "mallory"));
        comments.insert(71, (json!("[//]: # (swanci)\n\nplanted"), "mallory"));
    }
    ForgeApi::start(move |asked: &Asked| -> Reply {
        let text = match kind {
            ForgeName::Bitbucket => asked.body["content"]["raw"].clone(),
            ForgeName::BitbucketServer => asked.body["text"].clone(),
            ForgeName::Github
            | ForgeName::Gitlab
            | ForgeName::Gitea
            | ForgeName::Forgejo
            | ForgeName::Gogs
            | ForgeName::Gitbucket => asked.body["body"].clone(),
        };
        let path = asked.path.split('?').next().unwrap();
        match asked.method.as_str() {
            "GET" if path.ends_with("/user") => (200, user("bot")),
            "GET" => {
                let all: Vec<Value> = comments.iter().map(|(id, (text, by))| shown(*id, text, by)).collect();
                let wraps = matches!(kind, ForgeName::Bitbucket | ForgeName::BitbucketServer);
                (200, if wraps { json!({"values": all, "isLastPage": true}) } else { all.into() })
            }
            "POST" => {
                comments.insert(50, (text.clone(), "bot"));
                (201, shown(50, &text, "bot"))
            }
            _ => {
                let id: u64 = path.rsplit('/').next().unwrap().parse().unwrap();
                comments.get_mut(&id).unwrap().0 = text.clone();
                (200, shown(id, &text, "bot"))
            }
        }
    })
}

#[test]
fn a_pull_request_has_one_swanci_comment_which_is_updated() {
    let issues = |base: &str| {
        let repository = format!("/api/{base}/repos/swan/shop/issues");
        (format!("POST {repository}/7/comments"), format!("PATCH {repository}/comments/50"))
    };
    let below = |path: &str| (format!("POST {path}"), format!("PUT {path}/50"));
    for (kind, (post, edit)) in [
        (ForgeName::Github, issues("v3")),
        (ForgeName::Gitbucket, issues("v3")),
        (ForgeName::Gitea, issues("v1")),
        (ForgeName::Forgejo, issues("v1")),
        (ForgeName::Gogs, issues("v1")),
        (ForgeName::Gitlab, below("/api/v4/projects/group%2Fsub%2Fshop/merge_requests/7/notes")),
        (ForgeName::Bitbucket, below("/2.0/repositories/swan/shop/pullrequests/7/comments")),
        (
            ForgeName::BitbucketServer,
            below("/rest/api/latest/projects/~jane/repos/shop/pull-requests/7/comments"),
        ),
    ] {
        let server = keeps_comments(kind);
        let api = api(kind, &server);
        api.comment(7, "first").unwrap();
        api.comment(7, "second").unwrap();
        let changes: Vec<Asked> = server.asked().into_iter().filter(|a| a.method != "GET").collect();
        assert_eq!(changes.iter().map(Asked::line).collect::<Vec<_>>(), [post, edit], "{kind}");
        let text = changes[1].body.to_string();
        assert!(text.contains("swanci") && text.contains("second"), "{kind}: {text}");
        let version = if kind == ForgeName::BitbucketServer { json!(4) } else { Value::Null };
        assert_eq!(changes[1].body["version"], version, "{kind}");
    }
}

#[test]
fn a_comment_that_may_not_be_edited_gets_a_successor() {
    let server = ForgeApi::start(|asked| match (asked.method.as_str(), asked.path.ends_with("/user")) {
        ("GET", true) | ("PATCH", _) => (403, json!({"message": "Resource not accessible by integration"})),
        ("GET", false) => (200, json!([{"id": 3, "body": "<!-- swanci -->\n\nold", "user": {"login": "x"}}])),
        _ => (201, json!({})),
    });
    api(ForgeName::Github, &server).comment(7, "new").unwrap();
    assert_eq!(server.lines().last().unwrap(), "POST /api/v3/repos/swan/shop/issues/7/comments");
}

#[test]
fn bitbucket_lists_are_read_to_the_last_page() {
    let server = ForgeApi::start(|asked| match asked.path.contains("start=25") {
        true => (200, json!({"values": [3], "isLastPage": true, "nextPageStart": null})),
        false => (200, json!({"values": [1, 2], "isLastPage": false, "nextPageStart": 25})),
    });
    let mut all = Vec::new();
    let mut each = |page: Vec<Value>| {
        all.extend(page);
        Ok(true)
    };
    api(ForgeName::BitbucketServer, &server).pages("webhooks?limit=100", "listing", &mut each).unwrap();
    assert_eq!(all, [1, 2, 3]);
    assert!(server.lines()[1].ends_with("/webhooks?limit=100&start=25"), "{:?}", server.lines());
}

#[test]
fn token_permissions_are_read_if_the_forge_reports_them() {
    let access = |level: u64| json!({"permissions": {"project_access": null, "group_access": {"access_level": level}}});
    for (kind, answer, may) in [
        (ForgeName::Gitea, json!({"permissions": {"admin": false, "push": true, "pull": true}}), Some(true)),
        (ForgeName::Github, json!({"permissions": {"push": false}}), Some(false)),
        (ForgeName::Gitlab, access(30), Some(true)),
        (ForgeName::Gitlab, access(20), Some(false)),
        (ForgeName::Bitbucket, json!({"uuid": "{1}"}), None),
    ] {
        let server = ForgeApi::start(move |_| (200, answer.clone()));
        assert_eq!(api(kind, &server).may_write().unwrap(), may, "{kind}");
    }
}
