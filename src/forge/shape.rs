//! Recognizes the forge of a payload without headers by its keys.

use super::unsupported;
use super::wire::JsonObject;
use crate::error::Failure;
use crate::model::ForgeName;

const GITEE: &str = "Gitee";

/// The forge; an error for payloads of other systems. Sources: the webhook documentation of the forges.
pub(super) fn recognize(top: &JsonObject<'_>) -> Result<ForgeName, Failure> {
    if let Some((_, forge, mark)) = other_systems(top).into_iter().find(|(found, _, _)| *found) {
        return Err(unsupported(forge, mark));
    }
    let actor = top.peek("actor");
    // GitLab's system hooks have no sender; nearly all of GitHub's events have one.
    let is_gitlab = top.is_string("object_kind") || top.is_string("event_name") && !top.has("sender");
    let is_server =
        top.is_string("eventKey") || top.is_object("pullRequest") || actor.is_string("displayName");
    let is_cloud = top.is_object("pullrequest")
        || actor.is_object("links")
        || actor.is_string("uuid")
        || actor.is_string("display_name")
        || top.peek("push").has("changes");
    Ok(if is_gitlab {
        ForgeName::Gitlab
    } else if is_server {
        ForgeName::BitbucketServer
    } else if is_cloud {
        ForgeName::Bitbucket
    } else {
        of_githubs_family(top)
    })
}

/// What to do with a document that swanci reads, if it is one.
pub(super) fn own_document(top: &JsonObject<'_>) -> Option<&'static str> {
    let (has_schema, has_images) = (top.is_number("schema"), top.has("images"));
    if has_schema && top.is_string("decision") {
        Some("give it to `swanci build`")
    } else if has_schema && top.is_string("outcome") {
        Some("give it to `swanci verify`")
    } else if has_schema && has_images {
        Some("give it to `swanci push`")
    } else if has_images && !top.has("repository") && !top.has("sender") {
        Some("`swanci check` validates the images.json of a working tree")
    } else {
        None
    }
}

/// Unsupported systems: whether the payload is theirs, and the JSON path of the key that tells.
fn other_systems(top: &JsonObject<'_>) -> [(bool, &'static str, &'static str); 14] {
    let (repository, sender) = (top.peek("repository"), top.peek("sender"));
    let is_azure = top.is_string("eventType") && top.is_object("resource");
    let is_gitee = repository.is_string("path_with_namespace") && !top.is_string("object_kind");
    [
        (top.is_string("hook_name"), GITEE, "hook_name"),
        (top.is_string("publisherId"), "Azure DevOps", "publisherId"),
        (is_azure, "Azure DevOps", "eventType"),
        (top.has("eventCreatedOn"), "Gerrit", "eventCreatedOn"),
        (top.is_object("patchSet"), "Gerrit", "patchSet"),
        (top.is_object("refUpdate"), "Gerrit", "refUpdate"),
        (top.is_string("TopicArn"), "AWS CodeCommit", "TopicArn"),
        (top.is_string("detail-type"), "AWS CodeCommit", "detail-type"),
        (top.has("Records"), "AWS CodeCommit", "Records"),
        (top.is_string("trigger") && top.is_object("repo"), "Harness", "trigger"),
        (top.is_object("pull_req"), "Harness", "pull_req"),
        (is_gitee, GITEE, "repository.path_with_namespace"),
        (repository.peek("owner").is_string("user_name"), GITEE, "repository.owner.user_name"),
        (sender.is_string("user_name"), GITEE, "sender.user_name"),
    ]
}

/// GitHub's accounts have only a `login`; those of Gitea, Forgejo and Gogs have a `full_name` and usually a `username`,
/// which newer versions of Forgejo have dropped.
fn of_githubs_family(top: &JsonObject<'_>) -> ForgeName {
    let (repository, pull) = (top.peek("repository"), top.peek("pull_request"));
    if pull.is_string("base_branch") && !pull.is_object("base") {
        return ForgeName::Gogs;
    }
    let accounts = [repository.peek("owner"), top.peek("sender"), pull.peek("user")];
    let has = |key: &str| accounts.iter().any(|account| account.is_string(key));
    if has("pronouns") || has("full_name") && !has("username") {
        return ForgeName::Forgejo;
    }
    if has("username") || has("full_name") {
        return ForgeName::Gitea;
    }
    // GitBucket's clone URLs have `/git/` before the full name; GitHub's never do, not even for git/git.
    match (repository.peek_text("full_name"), repository.peek_text("clone_url")) {
        (Some(name), Some(url)) if url.ends_with(&format!("/git/{name}.git")) => ForgeName::Gitbucket,
        (_, _) => ForgeName::Github,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_system_is_named() {
        for (text, name) in [
            (
                r#"{"eventType":"git.pullrequest.merged","publisherId":"tfs","resource":{"repository":{}}}"#,
                "Azure DevOps",
            ),
            (r#"{"eventType":"git.push","resource":{}}"#, "Azure DevOps"),
            (
                r#"{"hook_name":"merge_request_hooks","hook_id":1,"action":"merge","pull_request":{"merged":true},
                    "repository":{"owner":{"login":"a","username":"a","user_name":"a"}}}"#,
                GITEE,
            ),
            (
                r#"{"action":"merge","pull_request":{},"sender":{"login":"a","user_name":"a","username":"a"}}"#,
                GITEE,
            ),
            (r#"{"pull_request":{},"repository":{"path_with_namespace":"a/b"}}"#, GITEE),
            (r#"{"type":"change-merged","change":{},"patchSet":{},"eventCreatedOn":1}"#, "Gerrit"),
            (r#"{"type":"ref-updated","refUpdate":{}}"#, "Gerrit"),
            (r#"{"Type":"Notification","TopicArn":"arn:aws:sns:x","Message":"{}"}"#, "AWS CodeCommit"),
            (
                r#"{"source":"aws.codecommit","detail-type":"CodeCommit Pull Request State Change","detail":{}}"#,
                "AWS CodeCommit",
            ),
            (r#"{"Records":[{"eventSource":"aws:codecommit"}]}"#, "AWS CodeCommit"),
            (r#"{"trigger":"pullreq_merged","repo":{},"principal":{},"pull_req":{}}"#, "Harness"),
        ] {
            let found = recognize(&JsonObject::top(text).unwrap());
            let error = found.unwrap_err().to_string();
            assert!(error.starts_with(&format!("the payload comes from {name}, ")), "{text}: {error}");
        }
    }

    #[test]
    fn a_supported_forge_is_recognized_by_its_keys() {
        use ForgeName::{Bitbucket, BitbucketServer, Forgejo, Gitbucket, Gitea, Github, Gitlab, Gogs};
        for (text, forge) in [
            (r#"{"object_kind":"merge_request","repository":{"path_with_namespace":"a/b"}}"#, Gitlab),
            (r#"{"event_name":"push"}"#, Gitlab),
            (r#"{"eventKey":"pr:merged","actor":{"displayName":"A"},"pullRequest":{}}"#, BitbucketServer),
            (r#"{"actor":{"username":"a","displayName":"A"},"pullrequest":{}}"#, BitbucketServer),
            (r#"{"actor":{"username":"a","displayName":"A"},"push":{"changes":[]}}"#, BitbucketServer),
            (r#"{"pullrequest":{},"actor":{"display_name":"A"}}"#, Bitbucket),
            (r#"{"push":{"changes":[]}}"#, Bitbucket),
            (r#"{"repository":{"full_name":"a/b","clone_url":"http://h/x/git/a/b.git"}}"#, Gitbucket),
            (r#"{"action":"closed","sender":{"login":"a","username":"a"}}"#, Gitea),
            (r#"{"action":"closed","sender":{"login":"a","full_name":""}}"#, Forgejo),
            (r#"{"pull_request":{"base_branch":"main","base_repo":{}}}"#, Gogs),
            (
                r#"{"repository":{"full_name":"a/b","clone_url":"http://h/git/a/b.git","owner":{"username":"a"}}}"#,
                Gitea,
            ),
            (
                r#"{"repository":{"full_name":"git/git","clone_url":"https://github.com/git/git.git"}}"#,
                Github,
            ),
            (r#"{"repository":{"full_name":"a/b","clone_url":"https://ghe.example.org/a/b.git"}}"#, Github),
            (r#"{"zen":"x","hook_id":1,"hook":{"type":"Repository"},"sender":{"login":"a"}}"#, Github),
            (r#"{"event_name":"x","sender":{"login":"a"}}"#, Github),
            (r#"{"action":"x","changes":{},"commits":[],"sender":{"login":"a"}}"#, Github),
            (r#"{"repository":{"full_name":"a/b"},"images":[],"sender":{"login":"a"}}"#, Github),
            ("{}", Github),
        ] {
            assert_eq!(recognize(&JsonObject::top(text).unwrap()).unwrap(), forge, "{text}");
        }
    }

    #[test]
    fn swancis_own_documents_are_recognized_by_their_keys() {
        for (text, command) in [
            (r#"{"schema":1,"decision":"build","change":{}}"#, "`swanci build`"),
            (r#"{"schema":1,"change":{},"images":[]}"#, "`swanci push`"),
            (r#"{"schema":1,"outcome":"succeeded","images":[]}"#, "`swanci verify`"),
            (r#"{"images":[{"service_name":"httpd"}]}"#, "`swanci check`"),
        ] {
            let hint = own_document(&JsonObject::top(text).unwrap()).unwrap();
            assert!(hint.contains(command), "{text}: {hint}");
        }
        let push = r#"{"images":[],"repository":{"full_name":"a/b"}}"#;
        assert_eq!(own_document(&JsonObject::top(push).unwrap()), None);
    }
}
