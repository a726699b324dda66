//! By what a payload of a forge is told that is not known yet. Several of them also send GitHub's event header, so
//! a payload without a look for these marks would be read as GitHub's, and built from fields that mean something else.

use super::wire::{Shape, is_object, is_string};

/// The forge that a payload is from, when it is not GitHub, and the JSON path that gave it away.
pub(super) fn mark(shape: &Shape<'_>) -> Option<(&'static str, &'static str)> {
    const BITBUCKET_SERVER: &str = "Bitbucket Server";
    const BITBUCKET: &str = "Bitbucket";
    const GITEA: &str = "Gitea, Gogs or Forgejo";
    const GITLAB: &str = "GitLab";

    if is_string(shape.object_kind) {
        return Some((GITLAB, "object_kind"));
    }
    // GitLab's system hooks; they have no sender, and GitHub's events nearly all have one.
    if is_string(shape.event_name) && shape.sender.is_absent() {
        return Some((GITLAB, "event_name"));
    }
    if is_string(shape.event_key) {
        return Some((BITBUCKET_SERVER, "eventKey"));
    }
    if is_object(shape.camel_pull_request) {
        return Some((BITBUCKET_SERVER, "pullRequest"));
    }
    if is_object(shape.pullrequest) {
        return Some((BITBUCKET, "pullrequest"));
    }
    if let Some(actor) = shape.actor.object()
        && (is_object(actor.links) || is_string(actor.uuid) || is_string(actor.display_name))
    {
        return Some((BITBUCKET, "actor"));
    }
    if shape.push.object().is_some_and(|push| push.changes.is_some()) {
        return Some((BITBUCKET, "push.changes"));
    }
    let owner = shape.repository.object().and_then(|repository| repository.owner.object());
    // GitHub's accounts have a `login` alone. Newer Forgejo has dropped `username`.
    for (account, username, full_name) in [
        (owner, "repository.owner.username", "repository.owner.full_name"),
        (shape.sender.object(), "sender.username", "sender.full_name"),
    ] {
        let Some(account) = account else { continue };
        if is_string(account.username) {
            return Some((GITEA, username));
        }
        if is_string(account.full_name) {
            return Some((GITEA, full_name));
        }
    }
    None
}
