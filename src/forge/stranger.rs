//! By what a payload of a forge is told that is not known yet. Several of them also send GitHub's event header, so
//! a payload without a look for these marks would be read as GitHub's, and built from fields that mean something else.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::{self, Shape, is_object, is_string};

/// The keys of an account by which Gitea, Gogs and Forgejo are told from GitHub, whose accounts have a `login` alone.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Account<'a> {
    #[serde(borrow)]
    username: Option<&'a RawValue>,
    #[serde(borrow)]
    full_name: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Repository<'a> {
    #[serde(borrow)]
    owner: Option<&'a RawValue>,
}

/// The keys of an account of Bitbucket Cloud.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Actor<'a> {
    #[serde(borrow)]
    links: Option<&'a RawValue>,
    #[serde(borrow)]
    uuid: Option<&'a RawValue>,
    #[serde(borrow)]
    display_name: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Push<'a> {
    #[serde(borrow)]
    changes: Option<&'a RawValue>,
}

/// A value read as an object; anything else, also one with a key twice, has no marks.
fn peek<'a, T: Default + Deserialize<'a>>(value: Option<&'a RawValue>) -> T {
    value.filter(|v| is_object(Some(v))).and_then(|v| wire::object(v.get(), "").ok()).unwrap_or_default()
}

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
    if is_string(shape.event_name) && shape.sender.is_none() {
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
    let actor: Actor<'_> = peek(shape.actor);
    if is_object(actor.links) || is_string(actor.uuid) || is_string(actor.display_name) {
        return Some((BITBUCKET, "actor"));
    }
    if peek::<Push<'_>>(shape.push).changes.is_some() {
        return Some((BITBUCKET, "push.changes"));
    }
    let owner: Account<'_> = peek(peek::<Repository<'_>>(shape.repository).owner);
    if is_string(owner.username) {
        return Some((GITEA, "repository.owner.username"));
    }
    // Newer Forgejo has dropped `username`.
    if is_string(owner.full_name) {
        return Some((GITEA, "repository.owner.full_name"));
    }
    let sender: Account<'_> = peek(shape.sender);
    if is_string(sender.username) {
        return Some((GITEA, "sender.username"));
    }
    if is_string(sender.full_name) {
        return Some((GITEA, "sender.full_name"));
    }
    None
}
