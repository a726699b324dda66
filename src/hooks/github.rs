//! GitHub's repository webhooks, as typed verbs over its REST API.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::http::{self, HeaderValue, header};
use url::Url;

use super::deliveries::Delivery;
use super::error::HookError;
use super::http::Server;
use super::{EVENT, shown};
use crate::cancel::Cancel;
use crate::http::retry::RetryPolicy;
use crate::http::{Answer, next_link};
use crate::model::RepoName;

/// The version of the API that the requests are written for.
const API_VERSION: &str = "2022-11-28";
/// The most that GitHub gives on one page.
const PER_PAGE: usize = 100;
/// Pages that are read of one list: a hundred times a hundred entries.
const MAX_PAGES: usize = 100;

/// A webhook of a repository.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Hook {
    /// GitHub's number for it.
    pub id: u64,
    /// Whether it delivers.
    pub active: bool,
    /// The events that it delivers.
    pub events: Vec<String>,
    /// Where and how.
    pub config: HookConfig,
}

/// Where and how a webhook delivers, as GitHub shows it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct HookConfig {
    /// Where to.
    pub url: Option<String>,
    /// `json` or `form`.
    pub content_type: Option<String>,
    /// Masked; there when the hook has one.
    secret: Option<String>,
    /// `"0"`, `"1"`, or the same as numbers.
    insecure_ssl: Option<serde_json::Value>,
}

impl HookConfig {
    /// Whether deliveries are signed.
    pub(crate) fn has_secret(&self) -> bool {
        self.secret.as_ref().is_some_and(|secret| !secret.is_empty())
    }

    /// Whether GitHub checks the listener's certificate.
    pub(crate) fn verifies_tls(&self) -> bool {
        match &self.insecure_ssl {
            None => true,
            Some(value) => value.as_str() == Some("0") || value.as_i64() == Some(0),
        }
    }
}

impl Hook {
    /// Whether it looks like one that swanci made: this path, pull requests and nothing else.
    pub(crate) fn looks_like_ours(&self, path: &str) -> bool {
        let url = self.config.url.as_deref().and_then(|url| Url::parse(url).ok());
        url.is_some_and(|url| url.path() == path) && self.events == [EVENT]
    }
}

/// What a webhook is to be.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Where it delivers.
    pub url: &'a Url,
    /// What deliveries are signed with.
    pub secret: &'a SecretString,
}

#[derive(Serialize)]
struct HookBody<'a> {
    /// Only on creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    active: bool,
    events: [&'static str; 1],
    config: ConfigBody<'a>,
}

#[derive(Serialize)]
struct ConfigBody<'a> {
    url: &'a str,
    content_type: &'static str,
    insecure_ssl: &'static str,
    secret: &'a str,
}

impl Wanted<'_> {
    fn body(&self, name: Option<&'static str>) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&HookBody {
            name,
            active: true,
            events: [EVENT],
            config: ConfigBody {
                url: self.url.as_str(),
                content_type: "json",
                insecure_ssl: "0",
                secret: self.secret.expose_secret(),
            },
        })
    }
}

/// GitHub, asked about one repository with one token.
pub(crate) struct GitHub {
    server: Server,
    repository: RepoName,
    token: SecretString,
    cancel: Cancel,
}

impl GitHub {
    /// A client of the API at this address; nothing is sent yet.
    ///
    /// # Errors
    /// [`HookError::Settings`] when the address would send the token in plain text, or is none.
    pub(crate) fn new(
        api: &str,
        repository: RepoName,
        token: SecretString,
        cancel: Cancel,
    ) -> Result<GitHub, HookError> {
        Ok(GitHub { server: Server::new(api, false)?, repository, token, cancel })
    }

    /// The API's host, with its port where it has one.
    pub(crate) fn host(&self) -> &str {
        &self.server.host
    }

    /// Every webhook of the repository.
    pub(crate) fn hooks(&self) -> Result<Vec<Hook>, HookError> {
        let mut hooks = Vec::new();
        let at = format!("listing the webhooks of {}", self.repository);
        self.pages::<Hook>(&format!("hooks?per_page={PER_PAGE}"), &at, &mut |page| {
            hooks.extend(page);
            true
        })?;
        Ok(hooks)
    }

    /// Makes a webhook.
    pub(crate) fn create(&self, wanted: &Wanted<'_>) -> Result<Hook, HookError> {
        let at = format!("making a webhook of {}", self.repository);
        let body = wanted.body(Some("web")).map_err(|e| self.protocol(&at, e.to_string()))?;
        let answer = self.send("POST", &self.url("hooks")?, Some(&body), &at)?;
        self.parsed(&answer, &at)
    }

    /// Makes a webhook that is there what it should be; the same once more changes nothing.
    pub(crate) fn update(&self, id: u64, wanted: &Wanted<'_>) -> Result<Hook, HookError> {
        let at = format!("updating webhook {id} of {}", self.repository);
        let body = wanted.body(None).map_err(|e| self.protocol(&at, e.to_string()))?;
        let answer = self.send("PATCH", &self.url(&format!("hooks/{id}"))?, Some(&body), &at)?;
        self.parsed(&answer, &at)
    }

    /// Asks for a ping.
    pub(crate) fn ping(&self, id: u64) -> Result<(), HookError> {
        let at = format!("asking for a ping of webhook {id} of {}", self.repository);
        self.send("POST", &self.url(&format!("hooks/{id}/pings"))?, None, &at).map(|_| ())
    }

    /// The newest deliveries, newest first, at most `count` (up to 100).
    pub(crate) fn newest_deliveries(&self, id: u64, count: usize) -> Result<Vec<Delivery>, HookError> {
        let mut found = Vec::new();
        let count = count.clamp(1, PER_PAGE);
        let at = format!("listing the deliveries of webhook {id} of {}", self.repository);
        self.pages(&format!("hooks/{id}/deliveries?per_page={count}"), &at, &mut |page| {
            found = page;
            false
        })?;
        found.truncate(count);
        Ok(found)
    }

    /// Deliveries, newest first, page after page until `more` says no.
    pub(crate) fn deliveries(
        &self,
        id: u64,
        more: &mut dyn FnMut(&Delivery) -> bool,
    ) -> Result<Vec<Delivery>, HookError> {
        let mut found = Vec::new();
        let at = format!("listing the deliveries of webhook {id} of {}", self.repository);
        self.pages::<Delivery>(&format!("hooks/{id}/deliveries?per_page={PER_PAGE}"), &at, &mut |page| {
            for delivery in page {
                if !more(&delivery) {
                    return false;
                }
                found.push(delivery);
            }
            true
        })?;
        Ok(found)
    }

    /// Asks GitHub to deliver again. Sent once: a repetition would deliver twice.
    pub(crate) fn redeliver(&self, id: u64, delivery: u64) -> Result<(), HookError> {
        let at = format!("asking for delivery {delivery} again");
        let url = self.url(&format!("hooks/{id}/deliveries/{delivery}/attempts"))?;
        self.send("POST", &url, None, &at).map(|_| ())
    }

    fn url(&self, path: &str) -> Result<Url, HookError> {
        // A repository's name holds nothing that would have to be encoded in a path.
        self.server
            .base
            .join(&format!("repos/{}/{path}", self.repository))
            .map_err(|e| HookError::Settings(e.to_string()))
    }

    /// Reads a list page by page, along its `Link: <…>; rel="next"` (RFC 8288).
    fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        at: &str,
        each: &mut dyn FnMut(Vec<T>) -> bool,
    ) -> Result<(), HookError> {
        let mut url = self.url(path)?;
        for _ in 0..MAX_PAGES {
            let answer = self.get(&url, at)?;
            if !each(self.parsed(&answer, at)?) {
                return Ok(());
            }
            let Some(next) = answer.header("link").and_then(next_link) else { return Ok(()) };
            let next =
                url.join(next).map_err(|e| self.protocol(at, format!("its link to the next page: {e}")))?;
            // The token goes along: only to where it was meant for.
            if next.origin() != url.origin() {
                return Err(
                    self.protocol(at, format!("the next page is elsewhere: {}", shown(next.as_str())))
                );
            }
            url = next;
        }
        Ok(())
    }

    /// A GET, repeated for passing causes.
    fn get(&self, url: &Url, at: &str) -> Result<Answer, HookError> {
        let policy =
            RetryPolicy { attempts: 3, first_delay: Duration::from_millis(300), ..RetryPolicy::default() };
        let mut retries = policy.start();
        loop {
            match self.send("GET", url, None, at) {
                Err(error) if error.is_transient() => match retries.next_delay(None) {
                    Some(delay) => self.cancel.sleep(delay)?,
                    None => return Err(error),
                },
                result => return result,
            }
        }
    }

    /// One request; anything but success is an error.
    fn send(&self, method: &str, url: &Url, body: Option<&[u8]>, at: &str) -> Result<Answer, HookError> {
        self.cancel.check()?;
        let token = HeaderValue::from_str(&format!("Bearer {}", self.token.expose_secret()));
        let mut token =
            token.map_err(|_| HookError::Settings("the token cannot be sent in a header".into()))?;
        token.set_sensitive(true);
        let request = http::Request::builder()
            .method(method)
            .header(header::ACCEPT, "application/vnd.github+json")
            .header("X-GitHub-Api-Version", API_VERSION)
            .header(header::AUTHORIZATION, token);
        // A POST without a body still says how long it is.
        let body = if method == "POST" { Some(body.unwrap_or_default()) } else { body };
        let answer = self.server.exchange(request, url, body, at)?;
        if matches!(answer.status, 200..=299) { Ok(answer) } else { Err(self.refused(&answer, at)) }
    }

    fn parsed<T: DeserializeOwned>(&self, answer: &Answer, at: &str) -> Result<T, HookError> {
        let mut deserializer = serde_json::Deserializer::from_slice(&answer.body);
        serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| self.protocol(at, shown(&error.to_string())))
    }

    fn protocol(&self, at: &str, detail: String) -> HookError {
        HookError::Protocol { host: self.server.host.clone(), at: at.to_owned(), detail }
    }

    /// What an unwelcome status means (docs.github.com, "Troubleshooting the REST API", "Rate limits").
    fn refused(&self, answer: &Answer, at: &str) -> HookError {
        let (host, at, detail) = (self.server.host.clone(), at.to_owned(), said(answer));
        let spent = answer.header("x-ratelimit-remaining") == Some("0");
        match answer.status {
            401 => HookError::TokenRefused { host, at, detail },
            403 | 429 if answer.status == 429 || spent || answer.header("retry-after").is_some() => {
                HookError::RateLimited { at, detail, again: again(answer) }
            }
            403 => HookError::Forbidden { at, detail },
            404 => HookError::NotFound { at, detail },
            300..=399 => HookError::Moved { at, to: shown(answer.header("location").unwrap_or("nowhere")) },
            400..=499 => HookError::Invalid { at, detail },
            status @ 500..=599 => HookError::Server { host, at, status, detail },
            status => HookError::Protocol { host, at, detail: format!("HTTP status {status}") },
        }
    }
}

/// When the rate's owner wants to be asked again.
fn again(answer: &Answer) -> Option<String> {
    if let Some(seconds) = answer.header("retry-after").and_then(|v| v.trim().parse::<u32>().ok()) {
        return Some(format!("try again in {seconds} s"));
    }
    let reset = answer.header("x-ratelimit-reset")?.trim().parse::<i64>().ok()?;
    Some(format!("try again after {}", jiff::Timestamp::from_second(reset).ok()?))
}

/// The error body of GitHub's description (`basic-error`, `validation-error`).
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: String,
    /// Strings, or objects with `message`, `field` and `code`.
    #[serde(default)]
    errors: Vec<serde_json::Value>,
}

fn said(answer: &Answer) -> String {
    let Ok(body) = serde_json::from_slice::<ErrorBody>(&answer.body) else {
        let start = String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned();
        return if start.trim().is_empty() {
            format!("HTTP status {}", answer.status)
        } else {
            shown(&start)
        };
    };
    let errors = body.errors.iter().filter_map(|error| {
        let text = |key: &str| error.get(key).and_then(serde_json::Value::as_str);
        error
            .as_str()
            .or_else(|| text("message"))
            .map(str::to_owned)
            .or_else(|| Some(format!("{}: {}", text("field")?, text("code")?)))
    });
    shown(&std::iter::once(body.message).chain(errors).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_for_other_events_or_another_path_is_not_ours() {
        let hook = |url: &str, events: &[&str]| Hook {
            id: 1,
            active: true,
            events: events.iter().map(ToString::to_string).collect(),
            config: HookConfig { url: Some(url.to_owned()), ..HookConfig::default() },
        };
        assert!(hook("https://old.ngrok.app/webhook", &["pull_request"]).looks_like_ours("/webhook"));
        assert!(!hook("https://old.ngrok.app/hooks/ci", &["pull_request"]).looks_like_ours("/webhook"));
        assert!(
            !hook("https://old.ngrok.app/webhook", &["push", "pull_request"]).looks_like_ours("/webhook")
        );
    }
}
