//! The webhooks of a repository, through the API of its forge.

use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::deliveries::Attempt;
use crate::forge::api::{Api, ApiError, Problem};
use crate::model::ForgeName;

/// The largest page of a list of deliveries.
const PER_PAGE: usize = 100;

/// A webhook's number; Bitbucket Cloud has UUIDs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum HookId {
    Number(u64),
    Text(String),
}

impl fmt::Display for HookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookId::Number(id) => id.fmt(f),
            HookId::Text(id) => f.write_str(&crate::escape::escaped(id)),
        }
    }
}

impl FromStr for HookId {
    type Err = String;

    fn from_str(text: &str) -> Result<HookId, String> {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'{' | b'}'));
        match text.parse() {
            Ok(number) => Ok(HookId::Number(number)),
            Err(_) if plain && !text.is_empty() => Ok(HookId::Text(text.to_owned())),
            Err(_) => Err("it is a number, or {UUID} on Bitbucket Cloud".to_owned()),
        }
    }
}

/// A webhook of a repository.
#[derive(Debug)]
pub(crate) struct Hook {
    pub id: HookId,
    pub events: Vec<String>,
    pub url: Option<String>,
    /// How it differs from what `install` makes, as far as the forge shows it.
    pub problems: Vec<String>,
}

impl Hook {
    /// Whether it looks like one that swanci made: this path, pull requests and nothing else.
    pub(crate) fn looks_like_ours(&self, path: &str, event: &str) -> bool {
        let url = self.url.as_deref().and_then(|url| Url::parse(url).ok());
        // Gitea lists the finer kinds of `pull_request` too.
        let same = |e: &String| e == event || e.strip_prefix(event).is_some_and(|rest| rest.starts_with('_'));
        url.is_some_and(|url| url.path() == path) && !self.events.is_empty() && self.events.iter().all(same)
    }
}

/// The differences between the webhook APIs of the forges. An empty text means that the API lacks it.
#[derive(Clone, Copy)]
struct Dialect {
    /// The event that announces a merge.
    event: &'static str,
    /// The list of webhooks, below the repository.
    list: &'static str,
    /// The key of its id.
    id: &'static str,
    /// JSON pointers in a webhook: the object with its URL; what is set if it has a secret; whether the forge checks
    /// the listener's certificate, and the value if it does.
    config: &'static str,
    secret: &'static str,
    tls: (&'static str, &'static str),
    /// The method that changes a webhook. Without one, a new webhook replaces it.
    update: &'static str,
    /// What sends a test, below the webhook.
    test: &'static str,
    /// Its deliveries, below the webhook, and what sends one of them again.
    deliveries: &'static str,
    resend: &'static str,
    /// The webhook's page, below that of the repository, and what to click there to send a delivery again.
    page: &'static str,
    by_hand: &'static str,
}

const GITHUB: Dialect = Dialect {
    event: "pull_request",
    list: "hooks",
    id: "id",
    config: "/config",
    secret: "/config/secret",
    tls: ("/config/insecure_ssl", "0"),
    update: "PATCH",
    test: "pings",
    deliveries: "deliveries",
    resend: "attempts",
    page: "settings/hooks/{id}",
    by_hand: "",
};

// The test of Gitea and Forgejo is a push, which a webhook for pull requests alone does not get.
const GITEA: Dialect = Dialect {
    tls: ("", ""),
    // An edit cannot set the secret.
    update: "",
    test: "",
    deliveries: "",
    by_hand: "open it under \"Recent Deliveries\" and click \"Replay\"",
    ..GITHUB
};

const fn dialect_of(kind: ForgeName) -> Dialect {
    match kind {
        ForgeName::Github => GITHUB,
        ForgeName::Gitea | ForgeName::Forgejo => GITEA,
        ForgeName::Gogs => {
            Dialect { by_hand: "open it under \"Recent Deliveries\" and click \"Redelivery\"", ..GITEA }
        }
        ForgeName::Gitbucket => Dialect {
            update: "PATCH",
            page: "settings/hooks",
            by_hand: "GitBucket keeps no deliveries; \"Test Hook\" sends a push",
            ..GITEA
        },
        ForgeName::Gitlab => Dialect {
            event: "merge_requests_events",
            config: "",
            secret: "/token_present",
            tls: ("/enable_ssl_verification", "true"),
            update: "PUT",
            test: "test/merge_requests_events",
            deliveries: "events",
            resend: "resend",
            page: "-/hooks/{id}/edit",
            ..GITHUB
        },
        ForgeName::Bitbucket => Dialect {
            event: "pullrequest:fulfilled",
            id: "uuid",
            config: "",
            secret: "/secret_set",
            tls: ("/skip_cert_verification", "false"),
            update: "PUT",
            page: "admin/webhooks",
            by_hand: "click \"View requests\", open the request and click \"Resend request\"",
            ..GITEA
        },
        ForgeName::BitbucketServer => Dialect {
            event: "pr:merged",
            list: "webhooks",
            config: "",
            secret: "/configuration/secret",
            tls: ("/sslVerificationRequired", "true"),
            update: "PUT",
            page: "",
            by_hand: "the webhook's \"Last failure\" shows what went wrong; it is not sent again",
            ..GITEA
        },
    }
}

pub(crate) struct Webhooks {
    pub api: Api,
    dialect: Dialect,
}

impl Webhooks {
    pub(crate) fn new(api: Api) -> Webhooks {
        let dialect = dialect_of(api.kind);
        Webhooks { api, dialect }
    }

    /// The event that announces a merge, as the webhook names it.
    pub(crate) fn event(&self) -> &'static str {
        self.dialect.event
    }

    /// The URL of the webhook and its deliveries, for people.
    pub(crate) fn page(&self, id: &HookId) -> String {
        match self.dialect.page {
            "" => self.api.webhooks_of_project(),
            page => self.api.page(&page.replace("{id}", &id.to_string())),
        }
    }

    fn path(&self, id: &HookId) -> String {
        format!("{}/{id}", self.dialect.list)
    }

    pub(crate) fn all(&self) -> Result<Vec<Hook>, ApiError> {
        let mut hooks = Vec::new();
        let at = format!("listing the webhooks of {}", self.api.repository);
        let path = format!("{}{}", self.dialect.list, self.api.long_pages());
        self.api.pages(&path, &at, &mut |page| {
            for hook in page {
                hooks.push(self.read(&hook, &at)?);
            }
            Ok(true)
        })?;
        Ok(hooks)
    }

    fn read(&self, hook: &Value, at: &str) -> Result<Hook, ApiError> {
        let Dialect { event, config, secret, tls: (tls, verifies), .. } = self.dialect;
        let id = &hook[self.dialect.id];
        let id = match (id.as_u64(), id.as_str()) {
            (Some(id), _) => HookId::Number(id),
            (None, Some(id)) => HookId::Text(id.to_owned()),
            (None, None) => return Err(self.api.error(Problem::Protocol, at, "a webhook without an id")),
        };
        let events: Vec<String> = match hook["events"].as_array() {
            Some(events) => events.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            // GitLab has one field for each event.
            None => {
                let switches = hook.as_object().into_iter().flatten();
                let on = switches.filter(|(key, on)| key.ends_with("_events") && on.as_bool() == Some(true));
                on.map(|(key, _)| key.clone()).collect()
            }
        };
        let shown = |pointer: &str| {
            let value = hook.pointer(pointer).filter(|value| !pointer.is_empty() && !value.is_null())?;
            Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let is = |pointer: &str, value: &str| shown(pointer).is_some_and(|shown| shown == value);
        // Some forges disable a webhook after errors.
        let is_off = is("/active", "false") || is("/alert_status", "disabled");
        let no_secret = match shown(secret) {
            Some(text) => text.is_empty() || text == "false",
            None => self.api.kind == ForgeName::Github,
        };
        let unreadable =
            shown(&format!("{config}/content_type")).is_some_and(|text| text != "json" && text != "form");
        let problems = [
            (is_off, "it is switched off".to_owned()),
            (!events.iter().any(|e| e == event || e == "*"), format!("it does not deliver {event} events")),
            (no_secret, "it has no secret, so `serve` refuses what it delivers".to_owned()),
            (unreadable, "its content type is neither json nor form".to_owned()),
            (
                shown(tls).is_some_and(|shown| shown != verifies),
                "it does not check the listener's certificate".to_owned(),
            ),
        ];
        let problems = problems.into_iter().filter(|(wrong, _)| *wrong).map(|(_, problem)| problem).collect();
        Ok(Hook { id, events, url: shown(&format!("{config}/url")), problems })
    }

    /// The whole webhook: several forges reset what an edit leaves out.
    fn body(&self, url: &Url, secret: &SecretString) -> Value {
        let (url, secret, event) = (url.as_str(), secret.expose_secret(), self.event());
        match self.api.kind {
            ForgeName::Github | ForgeName::Gitbucket => json!({
                "name": "web", "active": true, "events": [event],
                "config": {"url": url, "content_type": "json", "insecure_ssl": "0", "secret": secret},
            }),
            ForgeName::Gitea | ForgeName::Forgejo | ForgeName::Gogs => json!({
                "type": self.api.kind.as_str(), "active": true, "events": [event],
                "config": {"url": url, "content_type": "json", "secret": secret},
            }),
            ForgeName::Gitlab => json!({
                "url": url, "token": secret, "push_events": false, "merge_requests_events": true,
                "enable_ssl_verification": true,
            }),
            ForgeName::Bitbucket => json!({
                "description": "swanci", "url": url, "active": true, "events": [event], "secret": secret,
            }),
            ForgeName::BitbucketServer => json!({
                "name": "swanci", "url": url, "active": true, "events": [event],
                "configuration": {"secret": secret}, "sslVerificationRequired": true,
            }),
        }
    }

    /// Returns the id of the webhook.
    pub(crate) fn create(&self, url: &Url, secret: &SecretString) -> Result<HookId, ApiError> {
        let at = format!("making a webhook of {}", self.api.repository);
        let answer = self.api.send("POST", self.dialect.list, Some(&self.body(url, secret)), &at)?;
        Ok(self.read(&self.api.parsed(&answer, &at)?, &at)?.id)
    }

    /// Gives an existing webhook this URL and secret. Returns its id, which may be a new one.
    pub(crate) fn update(&self, id: &HookId, url: &Url, secret: &SecretString) -> Result<HookId, ApiError> {
        let at = format!("updating webhook {id} of {}", self.api.repository);
        if self.dialect.update.is_empty() {
            let new = self.create(url, secret)?;
            return match self.api.send("DELETE", &self.path(id), None, &at) {
                Err(error) if error.problem != Problem::NotFound => Err(error),
                Ok(_) | Err(_) => Ok(new),
            };
        }
        let mut body = self.body(url, secret);
        if let (ForgeName::Github, Some(body)) = (self.api.kind, body.as_object_mut()) {
            body.remove("name");
        }
        let answer = self.api.send(self.dialect.update, &self.path(id), Some(&body), &at)?;
        Ok(self.read(&self.api.parsed(&answer, &at)?, &at)?.id)
    }

    /// Sends a test, if the API can. It returns the result, or the result appears in the list of deliveries.
    pub(crate) fn test(&self, hook: &Hook) -> Result<Option<Attempt>, ApiError> {
        let at = format!("asking for a test of webhook {} of {}", hook.id, self.api.repository);
        if self.api.kind == ForgeName::BitbucketServer {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("webhookId", &hook.id.to_string())
                .append_pair("url", hook.url.as_deref().unwrap_or_default())
                .finish();
            let answer = self.api.send("POST", &format!("webhooks/test?{query}"), Some(&json!({})), &at)?;
            return Ok(Some(Attempt::of_test(&self.api.parsed(&answer, &at)?)));
        }
        if !self.dialect.test.is_empty() {
            self.api.send("POST", &format!("{}/{}", self.path(&hook.id), self.dialect.test), None, &at)?;
        }
        Ok(None)
    }

    /// Whether the API lists deliveries and sends them again.
    pub(crate) fn lists_deliveries(&self) -> bool {
        !self.dialect.deliveries.is_empty()
    }

    /// What to click if the API cannot send deliveries again.
    pub(crate) fn by_hand(&self, id: &HookId) -> String {
        format!("{}: {}", self.page(id), self.dialect.by_hand)
    }

    /// At most `most` deliveries, newest first, up to the first for which `more` is false.
    pub(crate) fn deliveries(
        &self,
        id: &HookId,
        most: usize,
        more: &mut dyn FnMut(&Attempt) -> bool,
    ) -> Result<Vec<Attempt>, ApiError> {
        let at = format!("listing the deliveries of webhook {id} of {}", self.api.repository);
        let per_page = most.clamp(1, PER_PAGE);
        let path = format!("{}/{}?per_page={per_page}", self.path(id), self.dialect.deliveries);
        let on_gitlab = self.api.kind == ForgeName::Gitlab;
        let mut found = Vec::new();
        self.api.pages(&path, &at, &mut |page| {
            for item in page {
                let parsed =
                    if on_gitlab { Ok(Attempt::of_gitlab(&item)) } else { serde_json::from_value(item) };
                let delivery = parsed.map_err(|e| self.api.error(Problem::Protocol, &at, e.to_string()))?;
                if found.len() == most || !more(&delivery) {
                    return Ok(false);
                }
                found.push(delivery);
            }
            Ok(found.len() < most)
        })?;
        Ok(found)
    }

    /// Sends a delivery again. The request is not retried, because a retry could deliver twice.
    pub(crate) fn redeliver(&self, id: &HookId, delivery: u64) -> Result<(), ApiError> {
        let at = format!("asking for delivery {delivery} again");
        let Dialect { deliveries, resend, .. } = self.dialect;
        let path = format!("{}/{deliveries}/{delivery}/{resend}", self.path(id));
        self.api.send("POST", &path, None, &at).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_for_other_events_or_another_path_is_not_ours() {
        let ours = |url: &str, events: &[&str]| {
            let hook = Hook {
                id: HookId::Number(1),
                events: events.iter().map(ToString::to_string).collect(),
                url: Some(url.to_owned()),
                problems: Vec::new(),
            };
            hook.looks_like_ours("/webhook", "pull_request")
        };
        assert!(ours("https://old.ngrok.app/webhook", &["pull_request"]));
        assert!(ours("https://old.ngrok.app/webhook", &["pull_request", "pull_request_label"]));
        assert!(!ours("https://old.ngrok.app/hooks/ci", &["pull_request"]));
        assert!(!ours("https://old.ngrok.app/webhook", &["push", "pull_request"]));
        assert!(!ours("https://old.ngrok.app/webhook", &[]));
    }

    #[test]
    fn an_id_is_a_number_or_a_uuid_and_nothing_that_changes_a_path() {
        assert_eq!("17".parse(), Ok(HookId::Number(17)));
        assert_eq!("{0f-1a}".parse(), Ok(HookId::Text("{0f-1a}".to_owned())));
        for wrong in ["", "1/2", "..", "a?b"] {
            assert!(wrong.parse::<HookId>().is_err(), "{wrong}");
        }
    }
}
