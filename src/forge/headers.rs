//! Reads the headers of a delivery: possible forges, event, id, signature.
//!
//! Gitea also sends GitHub's and Gogs' headers, Forgejo all of those, and Gogs GitHub's event header.

use crate::model::ForgeName;

/// Looks up a header by its lower-case name.
pub type Lookup<'a> = dyn Fn(&str) -> Option<&'a str> + 'a;

/// The headers that swanci reads.
pub(crate) const READ: [&str; 27] = [
    "content-type",
    "user-agent",
    "x-github-event",
    "x-github-delivery",
    "x-github-hook-id",
    "x-hub-signature-256",
    "x-hub-signature",
    "x-gitea-event",
    "x-gitea-delivery",
    "x-gitea-signature",
    "x-forgejo-event",
    "x-forgejo-delivery",
    "x-forgejo-signature",
    "x-gogs-event",
    "x-gogs-delivery",
    "x-gogs-signature",
    "x-gitlab-event",
    "x-gitlab-event-uuid",
    "x-gitlab-token",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-event-key",
    "x-hook-uuid",
    "x-request-uuid",
    "x-request-id",
    "x-bitbucket-type",
];

/// The name of the event, from the most specific forge's header.
pub(crate) fn event<'a>(headers: &Lookup<'a>) -> Option<&'a str> {
    ["x-forgejo-event", "x-gitea-event", "x-gogs-event", "x-gitlab-event", "x-event-key", "x-github-event"]
        .into_iter()
        .find_map(headers)
}

/// For people: it is not signed.
pub(crate) fn delivery_id<'a>(headers: &Lookup<'a>) -> Option<&'a str> {
    [
        "x-github-delivery",
        "x-gitea-delivery",
        "x-forgejo-delivery",
        "x-gogs-delivery",
        "x-gitlab-event-uuid",
        "webhook-id",
        "x-request-uuid",
        "x-request-id",
    ]
    .into_iter()
    .find_map(headers)
}

impl ForgeName {
    /// Whether this forge can have sent a delivery with these headers. Headers cannot always distinguish GitHub from
    /// GitBucket, or the two Bitbuckets; the secret behind the signature does.
    pub(crate) fn can_send(self, headers: &Lookup<'_>) -> bool {
        let has = |name: &str| headers(name).is_some();
        let gitlab = has("x-gitlab-event") || has("x-gitlab-token") || has("webhook-signature");
        let (forgejo, gitea, gogs) = (has("x-forgejo-event"), has("x-gitea-event"), has("x-gogs-event"));
        let bitbucket = headers("x-event-key");
        let github = !(gitlab || forgejo || gitea || gogs || bitbucket.is_some());
        let agent = |name: &str| headers("user-agent").is_some_and(|agent| agent.starts_with(name));
        match self {
            ForgeName::Gitlab => gitlab,
            ForgeName::Forgejo => forgejo,
            ForgeName::Gitea => gitea && !forgejo,
            ForgeName::Gogs => gogs && !gitea && !forgejo,
            ForgeName::Bitbucket => bitbucket.is_some_and(|key| {
                let of_server = ["pr:", "repo:refs_changed", "diagnostics:", "mirror:"];
                headers("x-bitbucket-type") != Some("server")
                    && (has("x-hook-uuid") || !of_server.iter().any(|name| key.starts_with(name)))
            }),
            ForgeName::BitbucketServer => bitbucket.is_some() && !has("x-hook-uuid"),
            ForgeName::Github => github && (has("x-github-hook-id") || !agent("Apache-HttpClient/")),
            ForgeName::Gitbucket => github && !has("x-github-hook-id") && !agent("GitHub-Hookshot/"),
        }
    }

    /// The header of the signature to verify.
    pub(crate) fn signature_header(self, headers: &Lookup<'_>) -> &'static str {
        match self {
            ForgeName::Github | ForgeName::Gitbucket => "x-hub-signature-256",
            ForgeName::Forgejo if headers("x-forgejo-signature").is_some() => "x-forgejo-signature",
            ForgeName::Gitea | ForgeName::Forgejo => "x-gitea-signature",
            ForgeName::Gogs => "x-gogs-signature",
            ForgeName::Gitlab if headers("webhook-signature").is_some() => "webhook-signature",
            ForgeName::Gitlab => "x-gitlab-token",
            ForgeName::Bitbucket | ForgeName::BitbucketServer => "x-hub-signature",
        }
    }
}

/// Whether a possible sender signed it; an empty signature does not count.
pub(crate) fn is_signed(headers: &Lookup<'_>) -> bool {
    let signed = |forge: ForgeName| headers(forge.signature_header(headers)).is_some_and(|s| !s.is_empty());
    ForgeName::ALL.into_iter().any(|forge| forge.can_send(headers) && signed(forge))
}

/// Why a delivery counts as unsigned.
pub(crate) fn unsigned(headers: &Lookup<'_>) -> &'static str {
    let sha1 = headers("x-hub-signature").and_then(|value| value.strip_prefix("sha1="));
    let of_github = ForgeName::Github.can_send(headers) || ForgeName::Gitbucket.can_send(headers);
    if of_github && sha1.is_some_and(|digits| !digits.is_empty()) {
        "it is signed with SHA-1 alone, which is not accepted; GitBucket signs with SHA-256 from version 4.46 on"
    } else {
        "it is not signed"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_identify_the_forge() {
        use ForgeName::{Bitbucket, BitbucketServer, Forgejo, Gitbucket, Gitea, Github, Gitlab, Gogs};
        for (headers, expected) in [
            (
                &[("x-github-event", "ping"), ("x-github-hook-id", "1"), ("user-agent", "GitHub-Hookshot/1")]
                    [..],
                &[Github][..],
            ),
            (&[("x-github-event", "push")], &[Github, Gitbucket]),
            (
                &[("x-github-event", "push"), ("user-agent", "Apache-HttpClient/4.5.14 (Java/17)")],
                &[Gitbucket],
            ),
            (&[("x-github-event", "push"), ("x-gogs-event", "push")], &[Gogs]),
            (&[("x-github-event", "push"), ("x-gogs-event", "push"), ("x-gitea-event", "push")], &[Gitea]),
            (
                &[
                    ("x-github-event", "p"),
                    ("x-gogs-event", "p"),
                    ("x-gitea-event", "p"),
                    ("x-forgejo-event", "p"),
                ],
                &[Forgejo],
            ),
            (&[("x-gitlab-event", "System Hook")], &[Gitlab]),
            (&[("webhook-signature", "v1,x")], &[Gitlab]),
            (&[("x-event-key", "pullrequest:fulfilled"), ("x-hook-uuid", "1")], &[Bitbucket]),
            (&[("x-event-key", "pullrequest:fulfilled")], &[Bitbucket, BitbucketServer]),
            (&[("x-event-key", "pr:merged"), ("x-request-id", "1")], &[BitbucketServer]),
            (&[("x-event-key", "diagnostics:ping")], &[BitbucketServer]),
            (&[("x-event-key", "pullrequest:fulfilled"), ("x-bitbucket-type", "server")], &[BitbucketServer]),
            (&[], &[Github, Gitbucket]),
        ] {
            let get = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            let mut found: Vec<_> = ForgeName::ALL.into_iter().filter(|forge| forge.can_send(&get)).collect();
            found.sort_by_key(|forge| expected.iter().position(|e| e == forge));
            assert_eq!(found, expected, "{headers:?}");
        }
    }

    #[test]
    fn a_signature_in_another_forges_header_does_not_count() {
        for (headers, signed) in [
            (&[("x-github-event", "push"), ("x-hub-signature-256", "sha256=00")][..], true),
            (&[("x-github-event", "push"), ("x-hub-signature-256", "")], false),
            (&[("x-github-event", "push"), ("x-hub-signature", "sha1=00")], false),
            (&[("x-gogs-event", "push"), ("x-gogs-signature", "")], false),
            (&[("x-gogs-event", "push"), ("x-hub-signature-256", "sha256=00")], false),
            (&[("x-forgejo-event", "p"), ("x-forgejo-signature", ""), ("x-gitea-signature", "00")], false),
            (&[("x-forgejo-event", "p"), ("x-gitea-signature", "00")], true),
            (&[("x-gitlab-event", "p"), ("x-gitlab-token", "t")], true),
            (&[("x-gitlab-event", "p"), ("webhook-signature", "v1,x")], true),
            (&[("x-event-key", "pr:merged"), ("x-hub-signature", "sha256=00")], true),
            (&[("x-event-key", "pr:merged"), ("x-hub-signature-256", "sha256=00")], false),
        ] {
            let get = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            assert_eq!(is_signed(&get), signed, "{headers:?}");
        }
    }
}
