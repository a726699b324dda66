//! Recognizes, by its shape, a payload that swanci does not read. Several forges also send GitHub's event header, so
//! without this check their payloads would be read as GitHub's, from fields that mean something else.

use super::PayloadError;
use super::wire::{Account, Raw, Shape, is_object, is_string, string};

const GITEA: &str = "Gitea, Gogs or Forgejo";
const GITEE: &str = "Gitee";
const BITBUCKET: &str = "Bitbucket Cloud";
const BITBUCKET_SERVER: &str = "Bitbucket Data Center (Server)";

/// What it is instead of a payload of GitHub.
pub(super) fn recognize(shape: &Shape<'_>) -> Option<PayloadError> {
    if let Some(command) = own_document(shape) {
        return Some(PayloadError::OwnDocument { command });
    }
    let (forge, mark) = mark(shape)?;
    Some(PayloadError::OtherForge { forge, mark })
}

/// The command that takes this document of swanci's.
fn own_document(shape: &Shape<'_>) -> Option<&'static str> {
    let is_number = |value: Raw<'_>| value.is_some_and(|v| v.get().starts_with(|c: char| c.is_ascii_digit()));
    if !is_number(shape.schema) {
        None
    } else if is_string(shape.decision) {
        Some("build")
    } else if is_string(shape.outcome) {
        Some("verify")
    } else if shape.images.is_some() {
        Some("push")
    } else {
        None
    }
}

/// The forge and the JSON path of the key that identifies it. Sources: the forges' documentation of their webhooks.
fn mark(shape: &Shape<'_>) -> Option<(&'static str, &'static str)> {
    let keys = [
        (is_string(shape.hook_name), GITEE, "hook_name"),
        (is_string(shape.publisher_id), "Azure DevOps", "publisherId"),
        (is_string(shape.event_type) && is_object(shape.resource), "Azure DevOps", "eventType"),
        (shape.event_created_on.is_some(), "Gerrit", "eventCreatedOn"),
        (is_object(shape.patch_set), "Gerrit", "patchSet"),
        (is_object(shape.ref_update), "Gerrit", "refUpdate"),
        (is_string(shape.topic_arn), "AWS CodeCommit", "TopicArn"),
        (is_string(shape.detail_type), "AWS CodeCommit", "detail-type"),
        (shape.records.is_some(), "AWS CodeCommit", "Records"),
        (is_string(shape.trigger) && is_object(shape.repo), "Harness", "trigger"),
        (is_object(shape.pull_req), "Harness", "pull_req"),
        (is_string(shape.object_kind), "GitLab", "object_kind"),
        // GitLab's system hooks have no sender; nearly all of GitHub's events have one.
        (is_string(shape.event_name) && shape.sender.is_absent(), "GitLab", "event_name"),
        (is_string(shape.event_key), BITBUCKET_SERVER, "eventKey"),
        (is_object(shape.camel_pull_request), BITBUCKET_SERVER, "pullRequest"),
    ];
    if let Some((_, forge, mark)) = keys.into_iter().find(|(found, _, _)| *found) {
        return Some((forge, mark));
    }
    let actor = shape.actor.object();
    if actor.is_some_and(|actor| is_string(actor.camel_display_name)) {
        return Some((BITBUCKET_SERVER, "actor.displayName"));
    }
    if is_object(shape.pullrequest) {
        return Some((BITBUCKET, "pullrequest"));
    }
    if actor.is_some_and(|a| is_object(a.links) || is_string(a.uuid) || is_string(a.display_name)) {
        return Some((BITBUCKET, "actor"));
    }
    if shape.push.object().is_some_and(|push| push.changes.is_some()) {
        return Some((BITBUCKET, "push.changes"));
    }
    let repository = shape.repository.object();
    if repository.is_some_and(|repository| is_string(repository.path_with_namespace)) {
        return Some((GITEE, "repository.path_with_namespace"));
    }
    if repository.is_some_and(|repository| is_gitbucket(repository.full_name, repository.clone_url)) {
        return Some(("GitBucket", "repository.clone_url"));
    }
    let owner = repository.and_then(|repository| repository.owner.object());
    of_account(
        owner,
        ["repository.owner.user_name", "repository.owner.username", "repository.owner.full_name"],
    )
    .or_else(|| {
        of_account(shape.sender.object(), ["sender.user_name", "sender.username", "sender.full_name"])
    })
}

/// GitHub's accounts have only a `login`; newer versions of Forgejo have dropped `username`.
fn of_account(
    account: Option<&Account<'_>>,
    paths: [&'static str; 3],
) -> Option<(&'static str, &'static str)> {
    let account = account?;
    let [user_name, username, full_name] = paths;
    if is_string(account.user_name) {
        Some((GITEE, user_name))
    } else if is_string(account.username) {
        Some((GITEA, username))
    } else if is_string(account.full_name) {
        Some((GITEA, full_name))
    } else {
        None
    }
}

/// GitBucket's payloads have GitHub's keys. Its clone URLs have `/git/` in front of the full name, which GitHub's
/// never have, not even that of git/git.
fn is_gitbucket(full_name: Raw<'_>, clone_url: Raw<'_>) -> bool {
    let text = |value| string(value, "").ok().flatten();
    match (text(full_name), text(clone_url)) {
        (Some(name), Some(url)) => url.ends_with(&format!("/git/{name}.git")),
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::top_level;
    use super::*;

    #[test]
    fn each_system_is_named_by_its_own_name() {
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
            (r#"{"object_kind":"merge_request"}"#, "GitLab"),
            (r#"{"event_name":"push"}"#, "GitLab"),
            (r#"{"eventKey":"pr:merged","actor":{"displayName":"A"},"pullRequest":{}}"#, BITBUCKET_SERVER),
            (r#"{"actor":{"username":"a","displayName":"A"},"pullrequest":{}}"#, BITBUCKET_SERVER),
            (r#"{"actor":{"username":"a","displayName":"A"},"push":{"changes":[]}}"#, BITBUCKET_SERVER),
            (r#"{"pullrequest":{},"actor":{"display_name":"A"}}"#, BITBUCKET),
            (r#"{"push":{"changes":[]}}"#, BITBUCKET),
            (
                r#"{"action":"closed","repository":{"full_name":"a/b","clone_url":"http://h/x/git/a/b.git"}}"#,
                "GitBucket",
            ),
            (r#"{"action":"closed","sender":{"login":"a","username":"a"}}"#, GITEA),
        ] {
            let found = mark(&top_level(text).unwrap()).map(|(name, _)| name);
            assert_eq!(found, Some(name), "{text}");
        }
    }

    #[test]
    fn githubs_own_payloads_are_not_mistaken() {
        for text in [
            r#"{"action":"closed","repository":{"full_name":"git/git","clone_url":"https://github.com/git/git.git"}}"#,
            r#"{"action":"closed","repository":{"full_name":"a/b","clone_url":"https://ghe.example.org/a/b.git"}}"#,
            r#"{"zen":"x","hook_id":1,"hook":{"type":"Repository"},"sender":{"login":"a"}}"#,
            r#"{"event_name":"x","sender":{"login":"a"}}"#,
            r#"{"action":"x","changes":{},"commits":[],"sender":{"login":"a"}}"#,
            r#"{"repository":{"full_name":"a/b"},"images":[],"sender":{"login":"a"}}"#,
        ] {
            assert_eq!(recognize(&top_level(text).unwrap()), None, "{text}");
        }
    }

    #[test]
    fn swancis_own_documents_are_told_by_their_schema() {
        for (text, command) in [
            (r#"{"schema":1,"decision":"build","change":{}}"#, "build"),
            (r#"{"schema":1,"change":{},"images":[]}"#, "push"),
            (r#"{"schema":1,"outcome":"succeeded","images":[]}"#, "verify"),
        ] {
            let found = recognize(&top_level(text).unwrap());
            assert_eq!(found, Some(PayloadError::OwnDocument { command }), "{text}");
        }
    }
}
