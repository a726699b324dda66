//! A repository's webhooks, as typed verbs over the API of its forge.

use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::deliveries::Delivery;
use crate::forge::api::{Api, ApiError, Family, Problem};
use crate::model::ForgeName;

/// What one page of a list of deliveries has at most.
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

/// A webhook as the forge shows it. What a forge does not show is `None`.
#[derive(Debug)]
pub(crate) struct Hook {
    pub id: HookId,
    /// Whether it delivers.
    pub active: bool,
    pub events: Vec<String>,
    pub url: Option<String>,
    /// `json` or `form`.
    pub content_type: Option<String>,
    /// Whether deliveries are signed.
    pub has_secret: Option<bool>,
    /// Whether the forge checks the listener's certificate.
    pub verifies_tls: Option<bool>,
}

impl Hook {
    /// Whether it looks like one that swanci made: this path, pull requests and nothing else.
    pub(crate) fn looks_like_ours(&self, path: &str, event: &str) -> bool {
        let url = self.url.as_deref().and_then(|url| Url::parse(url).ok());
        // Gitea lists the finer kinds of `pull_request` too.
        let same = |e: &String| e == event || e.strip_prefix(event).is_some_and(|rest| rest.starts_with('_'));
        url.is_some_and(|url| url.path() == path) && !self.events.is_empty() && self.events.iter().all(same)
    }

    /// Whether it delivers merges.
    pub(crate) fn delivers(&self, event: &str) -> bool {
        self.events.iter().any(|e| e == event || e == "*")
    }
}

/// What a webhook is to be.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub url: &'a Url,
    /// What deliveries are signed with.
    pub secret: &'a SecretString,
}

/// How a webhook is tried out.
pub(crate) enum Test {
    /// The test appears among the deliveries.
    Listed,
    /// The forge answers with what the listener answered.
    Answered(Box<Delivery>),
    /// The API has no test that such a webhook gets.
    None,
}

/// The webhooks of a repository.
pub(crate) struct Webhooks {
    pub api: Api,
}

impl Webhooks {
    /// The event that announces a merge, as the webhook names it.
    pub(crate) fn event(&self) -> &'static str {
        match self.api.family() {
            Family::Github => "pull_request",
            Family::Gitlab => "merge_requests_events",
            Family::Bitbucket => "pullrequest:fulfilled",
            Family::BitbucketServer => "pr:merged",
        }
    }

    /// Where a person finds this webhook with its deliveries.
    pub(crate) fn page(&self, id: &HookId) -> String {
        match self.api.family() {
            Family::Github if self.api.kind == ForgeName::Gitbucket => self.api.page("settings/hooks"),
            Family::Github => self.api.page(&format!("settings/hooks/{id}")),
            Family::Gitlab => self.api.page(&format!("-/hooks/{id}/edit")),
            Family::Bitbucket => self.api.page("admin/webhooks"),
            Family::BitbucketServer => self.api.webhooks_of_project(),
        }
    }

    fn folder(&self) -> &'static str {
        match self.api.family() {
            Family::Github | Family::Gitlab | Family::Bitbucket => "hooks",
            Family::BitbucketServer => "webhooks",
        }
    }

    fn path(&self, id: &HookId) -> String {
        format!("{}/{id}", self.folder())
    }

    /// Every webhook of the repository.
    pub(crate) fn all(&self) -> Result<Vec<Hook>, ApiError> {
        let mut hooks = Vec::new();
        let at = format!("listing the webhooks of {}", self.api.repository);
        let path = format!("{}{}", self.folder(), self.api.long_pages());
        self.api.pages(&path, &at, &mut |page| {
            for hook in page {
                hooks.push(self.read(&hook, &at)?);
            }
            Ok(true)
        })?;
        Ok(hooks)
    }

    fn read(&self, hook: &Value, at: &str) -> Result<Hook, ApiError> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let is_set = |value: &Value| value.as_str().map(|text| !text.is_empty());
        let id = if self.api.kind == ForgeName::Bitbucket { &hook["uuid"] } else { &hook["id"] };
        let id = match (id.as_u64(), id.as_str()) {
            (Some(id), _) => HookId::Number(id),
            (None, Some(id)) => HookId::Text(id.to_owned()),
            (None, None) => return Err(self.api.error(Problem::Protocol, at, "a webhook without an id")),
        };
        let events = match hook["events"].as_array() {
            Some(events) => events.iter().filter_map(text).collect(),
            // GitLab has a switch for each.
            None => {
                let switches = hook.as_object().into_iter().flatten();
                let on = switches.filter(|(key, on)| key.ends_with("_events") && on.as_bool() == Some(true));
                on.map(|(key, _)| key.clone()).collect()
            }
        };
        let config = if self.api.family() == Family::Github { &hook["config"] } else { hook };
        let (has_secret, verifies_tls) = match self.api.kind {
            ForgeName::Github => {
                let insecure = &config["insecure_ssl"];
                let verifies = insecure.is_null() || *insecure == "0" || *insecure == 0;
                (Some(is_set(&config["secret"]).unwrap_or(false)), Some(verifies))
            }
            ForgeName::Gitea | ForgeName::Forgejo | ForgeName::Gogs | ForgeName::Gitbucket => {
                (is_set(&config["secret"]), None)
            }
            ForgeName::Gitlab => (hook["token_present"].as_bool(), hook["enable_ssl_verification"].as_bool()),
            ForgeName::Bitbucket => {
                (hook["secret_set"].as_bool(), hook["skip_cert_verification"].as_bool().map(|skips| !skips))
            }
            ForgeName::BitbucketServer => {
                (is_set(&hook["configuration"]["secret"]), hook["sslVerificationRequired"].as_bool())
            }
        };
        Ok(Hook {
            id,
            // GitLab has no such switch, and other forges may switch one off.
            active: hook["active"].as_bool().unwrap_or(true) && hook["alert_status"] != "disabled",
            events,
            url: text(&config["url"]),
            content_type: text(&config["content_type"]),
            has_secret,
            verifies_tls,
        })
    }

    /// The whole webhook: several forges reset what an edit leaves out.
    fn body(&self, wanted: &Wanted<'_>) -> Value {
        let (url, secret, event) = (wanted.url.as_str(), wanted.secret.expose_secret(), self.event());
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

    pub(crate) fn create(&self, wanted: &Wanted<'_>) -> Result<Hook, ApiError> {
        let at = format!("making a webhook of {}", self.api.repository);
        let answer = self.api.send("POST", self.folder(), Some(&self.body(wanted)), &at)?;
        self.read(&self.api.parsed(&answer, &at)?, &at)
    }

    /// Makes a webhook that is there what it should be.
    pub(crate) fn update(&self, id: &HookId, wanted: &Wanted<'_>) -> Result<Hook, ApiError> {
        let at = format!("updating webhook {id} of {}", self.api.repository);
        let method = match self.api.kind {
            ForgeName::Github | ForgeName::Gitbucket => "PATCH",
            ForgeName::Gitlab | ForgeName::Bitbucket | ForgeName::BitbucketServer => "PUT",
            // An edit cannot set the secret: a new one takes its place before the old one goes.
            ForgeName::Gitea | ForgeName::Forgejo | ForgeName::Gogs => {
                let new = self.create(wanted)?;
                return match self.api.send("DELETE", &self.path(id), None, &at) {
                    Err(error) if error.problem != Problem::NotFound => Err(error),
                    Ok(_) | Err(_) => Ok(new),
                };
            }
        };
        let mut body = self.body(wanted);
        if let (ForgeName::Github, Some(body)) = (self.api.kind, body.as_object_mut()) {
            body.remove("name");
        }
        let answer = self.api.send(method, &self.path(id), Some(&body), &at)?;
        self.read(&self.api.parsed(&answer, &at)?, &at)
    }

    /// Has the forge send a test, where it can.
    pub(crate) fn test(&self, hook: &Hook) -> Result<Test, ApiError> {
        let at = format!("asking for a test of webhook {} of {}", hook.id, self.api.repository);
        let path = self.path(&hook.id);
        let post = |path: &str| self.api.send("POST", path, None, &at);
        match self.api.kind {
            ForgeName::Github => post(&format!("{path}/pings")).map(|_| Test::Listed),
            ForgeName::Gitlab => post(&format!("{path}/test/merge_requests_events")).map(|_| Test::Listed),
            // The test of Gitea and Forgejo is a push, and a webhook for pull requests alone does not get it.
            ForgeName::Gitea
            | ForgeName::Forgejo
            | ForgeName::Gogs
            | ForgeName::Gitbucket
            | ForgeName::Bitbucket => Ok(Test::None),
            ForgeName::BitbucketServer => {
                let query = form_urlencoded::Serializer::new(String::new())
                    .append_pair("webhookId", &hook.id.to_string())
                    .append_pair("url", hook.url.as_deref().unwrap_or_default())
                    .finish();
                let answer =
                    self.api.send("POST", &format!("webhooks/test?{query}"), Some(&json!({})), &at)?;
                let shown: Value = self.api.parsed(&answer, &at)?;
                Ok(Test::Answered(Box::new(answered(&shown))))
            }
        }
    }

    /// Whether the API lists deliveries and sends them again.
    pub(crate) fn lists_deliveries(&self) -> bool {
        matches!(self.api.kind, ForgeName::Github | ForgeName::Gitlab)
    }

    /// What to click for what the API lacks.
    pub(crate) fn by_hand(&self, id: &HookId) -> String {
        let page = self.page(id);
        let click = match self.api.kind {
            ForgeName::Gitea | ForgeName::Forgejo => {
                "open it under \"Recent Deliveries\" and click \"Replay\""
            }
            ForgeName::Gogs => "open it under \"Recent Deliveries\" and click \"Redelivery\"",
            ForgeName::Gitbucket => "GitBucket keeps no deliveries; \"Test Hook\" sends a push",
            ForgeName::Bitbucket => "click \"View requests\", open the request and click \"Resend request\"",
            ForgeName::BitbucketServer => {
                "the webhook's \"Last failure\" shows what went wrong; it is not sent again"
            }
            ForgeName::Github | ForgeName::Gitlab => "open the delivery and send it again",
        };
        format!("{page}: {click}")
    }

    /// Deliveries, newest first, until there are `most` or `more` says no.
    pub(crate) fn deliveries(
        &self,
        id: &HookId,
        most: usize,
        more: &mut dyn FnMut(&Delivery) -> bool,
    ) -> Result<Vec<Delivery>, ApiError> {
        let at = format!("listing the deliveries of webhook {id} of {}", self.api.repository);
        let on_gitlab = self.api.family() == Family::Gitlab;
        let list = if on_gitlab { "events" } else { "deliveries" };
        let path = format!("{}/{list}?per_page={}", self.path(id), most.clamp(1, PER_PAGE));
        let mut found = Vec::new();
        self.api.pages(&path, &at, &mut |page| {
            for item in page {
                let parsed = if on_gitlab { Ok(of_gitlab(&item)) } else { serde_json::from_value(item) };
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

    /// Asks the forge to deliver again. Sent once: a repetition would deliver twice.
    pub(crate) fn redeliver(&self, id: &HookId, delivery: u64) -> Result<(), ApiError> {
        let at = format!("asking for delivery {delivery} again");
        let path = self.path(id);
        let path = match self.api.family() {
            Family::Gitlab => format!("{path}/events/{delivery}/resend"),
            Family::Github | Family::Bitbucket | Family::BitbucketServer => {
                format!("{path}/deliveries/{delivery}/attempts")
            }
        };
        self.api.send("POST", &path, None, &at).map(drop)
    }
}

/// An event of GitLab's webhook (docs.gitlab.com, "Project webhooks API", "List all events"). It says no time by itself,
/// and names what it was about by the id in its headers, which a repetition keeps.
fn of_gitlab(event: &Value) -> Delivery {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let id = event["id"].as_u64().unwrap_or_default();
    let headers = &event["request_headers"];
    let guid = ["Idempotency-Key", "X-Gitlab-Event-UUID"].iter().find_map(|name| headers[name].as_str());
    let status = text(&event["response_status"]);
    Delivery {
        id,
        guid: guid.map_or_else(|| id.to_string(), str::to_owned),
        delivered_at: text(&event["created_at"]),
        redelivery: false,
        duration: event["execution_duration"].as_f64().unwrap_or_default(),
        status_code: status.parse().unwrap_or_default(),
        status: if status.parse::<u16>().is_ok() { String::new() } else { status },
        event: text(&event["trigger"]),
        action: event["request_data"]["object_attributes"]["action"].as_str().map(str::to_owned),
    }
}

/// Data Center's answer to a test: the request that it sent and the answer that it got.
fn answered(test: &Value) -> Delivery {
    let status = test["response"]["statusCode"].as_i64().or_else(|| test["statusCode"].as_i64());
    Delivery {
        id: 0,
        guid: String::new(),
        delivered_at: jiff::Timestamp::now().to_string(),
        redelivery: false,
        duration: 0.0,
        status: if status.is_none() { "no answer".to_owned() } else { String::new() },
        status_code: status.unwrap_or_default(),
        event: "ping".to_owned(),
        action: None,
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
                active: true,
                events: events.iter().map(ToString::to_string).collect(),
                url: Some(url.to_owned()),
                content_type: None,
                has_secret: None,
                verifies_tls: None,
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
