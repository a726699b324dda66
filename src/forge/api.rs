//! A client of a forge's REST API for one repository; matches on the kind of forge handle the differences.
//!
//! Sources: GitHub's API 2022-11-28, Gitea's and Forgejo's `/api/v1`, Gogs' go-gogs-client, GitBucket's `/api/v3`,
//! GitLab's `/api/v4`, Bitbucket Cloud's 2.0, Bitbucket Data Center's `latest`.

mod comment;
mod error;
mod server;
mod status;

pub(crate) use error::{ApiError, Problem};
pub(crate) use server::Server;
pub(crate) use status::{CommitState, CommitStatus, LONGEST_DESCRIPTION};

use std::time::Duration;

use base64::Engine as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{self, HeaderValue, header};
use url::Url;

use crate::cancel::Cancel;
use crate::http::retry::Retry;
use crate::http::{Answer, next_link, shown};
use crate::model::{ForgeName, RepoName};

/// Limit on the pages of one list, of a hundred entries each.
const MAX_PAGES: usize = 100;

/// The address of an API, and its credentials.
pub(crate) struct Account {
    pub(crate) kind: ForgeName,
    /// The forge's own URL, without a trailing slash.
    pub(crate) url: String,
    /// The API's address, if it does not follow from `url`.
    pub(crate) api_url: Option<String>,
    /// An additional certificate authority.
    pub(crate) ca_pem: Option<Vec<u8>>,
    /// The user name, if the token was configured with one.
    pub(crate) user: Option<String>,
    pub(crate) token: SecretString,
}

/// Forges with the same API: several imitate GitHub's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Github,
    Gitlab,
    Bitbucket,
    BitbucketServer,
}

pub(crate) struct Api {
    pub(crate) kind: ForgeName,
    pub(crate) repository: RepoName,
    /// The forge's own URL, without a trailing slash.
    pub(crate) url: String,
    server: Server,
    /// The name and value of the header with the token.
    login: (&'static str, HeaderValue),
    cancel: Cancel,
}

impl Api {
    /// Sends no request yet.
    ///
    /// # Errors
    /// [`Problem::Settings`] if the address is invalid or would send the token in plain text.
    pub(crate) fn new(account: Account, repository: RepoName, cancel: Cancel) -> Result<Api, ApiError> {
        let Account { kind, url, api_url, ca_pem, user, token } = account;
        // Plain http is accepted only from the configuration's own `url`.
        let plain = api_url.is_none() && url.starts_with("http://");
        let address = api_url.unwrap_or_else(|| api_of(kind, &url));
        let server = Server::new(&address, plain, ca_pem.as_deref())?;
        let login = login(kind, user.as_deref(), &token)?;
        Ok(Api { kind, repository, url, server, login, cancel })
    }

    /// The API's host, with its port, if any.
    pub(crate) fn host(&self) -> &str {
        &self.server.host
    }

    pub(crate) const fn family(&self) -> Family {
        match self.kind {
            ForgeName::Github
            | ForgeName::Gitea
            | ForgeName::Forgejo
            | ForgeName::Gogs
            | ForgeName::Gitbucket => Family::Github,
            ForgeName::Gitlab => Family::Gitlab,
            ForgeName::Bitbucket => Family::Bitbucket,
            ForgeName::BitbucketServer => Family::BitbucketServer,
        }
    }

    /// `projects/KEY/repos/SLUG`, Data Center's path of a repository.
    fn in_project(&self) -> String {
        match self.repository.as_str().split_once('/') {
            Some((project, slug)) => format!("projects/{project}/repos/{slug}"),
            None => self.repository.to_string(),
        }
    }

    /// The URL of a page of the repository on the forge.
    pub(crate) fn page(&self, rest: &str) -> String {
        let url = &self.url;
        match self.family() {
            Family::Github | Family::Gitlab | Family::Bitbucket => {
                format!("{url}/{}/{rest}", self.repository)
            }
            Family::BitbucketServer => format!("{url}/{}/{rest}", self.in_project()),
        }
    }

    /// The page of the repository's webhooks on Data Center.
    pub(crate) fn webhooks_of_project(&self) -> String {
        format!("{}/plugins/servlet/webhooks/{}", self.url, self.in_project())
    }

    /// The repository's path in the API.
    fn root(&self) -> String {
        match self.family() {
            Family::Github => format!("repos/{}", self.repository),
            Family::Gitlab => format!("projects/{}", self.repository.as_str().replace('/', "%2F")),
            Family::Bitbucket => format!("repositories/{}", self.repository),
            Family::BitbucketServer => format!("api/latest/{}", self.in_project()),
        }
    }

    /// The URL of `path` below the repository.
    fn below(&self, path: &str) -> Result<Url, ApiError> {
        // No character of a repository name needs encoding, except the slash for GitLab.
        let all = if path.is_empty() { self.root() } else { format!("{}/{path}", self.root()) };
        self.anywhere(&all)
    }

    fn anywhere(&self, path: &str) -> Result<Url, ApiError> {
        self.server.base.join(path).map_err(|e| ApiError::settings(e.to_string()))
    }

    /// Whether the token may write to the repository, if the forge reports it.
    pub(crate) fn may_write(&self) -> Result<Option<bool>, ApiError> {
        let at = format!("reading {} by the API", self.repository);
        let found: Value = self.parsed(&self.get(&self.below("")?, &at)?, &at)?;
        let permissions = &found["permissions"];
        let level = |of: &str| permissions[of]["access_level"].as_i64();
        Ok(match self.family() {
            Family::Github => permissions["push"].as_bool(),
            // Level 30 is Developer, the lowest that may set statuses and write notes.
            Family::Gitlab => level("project_access").max(level("group_access")).map(|level| level >= 30),
            Family::Bitbucket | Family::BitbucketServer => None,
        })
    }

    /// Reads a list page by page until `each` returns false.
    pub(crate) fn pages(
        &self,
        path: &str,
        at: &str,
        each: &mut dyn FnMut(Vec<Value>) -> Result<bool, ApiError>,
    ) -> Result<(), ApiError> {
        let mut url = self.below(path)?;
        for _ in 0..MAX_PAGES {
            let answer = self.get(&url, at)?;
            let mut page: Value = self.parsed(&answer, at)?;
            // Bitbucket wraps its lists.
            let (items, next) = if page.is_object() {
                let following =
                    page["nextPageStart"].as_u64().map(|start| started_at(&url, &start.to_string()));
                let next = page["next"].as_str().map(str::to_owned).or(following);
                (page["values"].take(), next)
            } else {
                (page, answer.header("link").and_then(next_link).map(str::to_owned))
            };
            let Value::Array(items) = items else {
                return Err(self.error(Problem::Protocol, at, "the answer is not a list"));
            };
            if !each(items)? {
                return Ok(());
            }
            let Some(next) = next else { return Ok(()) };
            let next = url
                .join(&next)
                .map_err(|e| self.error(Problem::Protocol, at, format!("its link to the next page: {e}")))?;
            // The request contains the token, so it must stay on the same server.
            if next.origin() != url.origin() {
                let detail = format!("the next page is elsewhere: {}", shown(next.as_str()));
                return Err(self.error(Problem::Protocol, at, detail));
            }
            url = next;
        }
        Ok(())
    }

    /// The query for long pages, if the forge has pages.
    pub(crate) fn long_pages(&self) -> &'static str {
        match self.kind {
            ForgeName::Github | ForgeName::Gitlab => "?per_page=100",
            ForgeName::Gitea | ForgeName::Forgejo => "?limit=50",
            ForgeName::Bitbucket => "?pagelen=100",
            ForgeName::BitbucketServer => "?limit=100",
            ForgeName::Gogs | ForgeName::Gitbucket => "",
        }
    }

    /// A GET below the repository, retried after temporary errors.
    pub(crate) fn read<T: DeserializeOwned>(&self, path: &str, at: &str) -> Result<T, ApiError> {
        self.parsed(&self.get(&self.below(path)?, at)?, at)
    }

    fn get(&self, url: &Url, at: &str) -> Result<Answer, ApiError> {
        let retry = Retry { attempts: 3, first_delay: Duration::from_millis(300), ..Retry::default() };
        let mut delays = retry.delays();
        loop {
            match self.exchange("GET", url, None, at) {
                Err(error) if error.is_transient() => match delays(None) {
                    Some(delay) => self.cancel.sleep(delay)?,
                    None => return Err(error),
                },
                result => return result,
            }
        }
    }

    /// Sends one changing request below the repository, without retries.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        at: &str,
    ) -> Result<Answer, ApiError> {
        self.exchange(method, &self.below(path)?, body, at)
    }

    /// Sends one request; any status but success is an error.
    fn exchange(&self, method: &str, url: &Url, body: Option<&Value>, at: &str) -> Result<Answer, ApiError> {
        self.cancel.check()?;
        let mut request = http::Request::builder().method(method).header(self.login.0, self.login.1.clone());
        request = if self.kind == ForgeName::Github {
            request
                .header(header::ACCEPT, "application/vnd.github+json")
                .header("X-GitHub-Api-Version", "2022-11-28")
        } else {
            request.header(header::ACCEPT, "application/json")
        };
        let body = body.map(Value::to_string);
        // A POST without a body still needs a length.
        let body = if method == "POST" { Some(body.unwrap_or_default()) } else { body };
        let answer = self.server.exchange(request, url, body.as_deref().map(str::as_bytes), at)?;
        if matches!(answer.status, 200..=299) { Ok(answer) } else { Err(self.refused(&answer, at)) }
    }

    pub(crate) fn parsed<T: DeserializeOwned>(&self, answer: &Answer, at: &str) -> Result<T, ApiError> {
        let mut deserializer = serde_json::Deserializer::from_slice(&answer.body);
        serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| self.error(Problem::Protocol, at, shown(&error.to_string())))
    }
}

/// The API's address of a forge at this URL.
fn api_of(kind: ForgeName, url: &str) -> String {
    match kind {
        ForgeName::Github if url == "https://github.com" => "https://api.github.com".to_owned(),
        ForgeName::Bitbucket if url == "https://bitbucket.org" => "https://api.bitbucket.org/2.0".to_owned(),
        ForgeName::Github | ForgeName::Gitbucket => format!("{url}/api/v3"),
        ForgeName::Gitea | ForgeName::Forgejo | ForgeName::Gogs => format!("{url}/api/v1"),
        ForgeName::Gitlab => format!("{url}/api/v4"),
        ForgeName::Bitbucket => format!("{url}/2.0"),
        ForgeName::BitbucketServer => format!("{url}/rest"),
    }
}

fn login(
    kind: ForgeName,
    user: Option<&str>,
    token: &SecretString,
) -> Result<(&'static str, HeaderValue), ApiError> {
    let token = token.expose_secret();
    let (name, value) = match kind {
        // API tokens of Bitbucket Cloud and passwords of Data Center require the user name.
        ForgeName::Bitbucket | ForgeName::BitbucketServer if user.is_some() => {
            let login = format!("{}:{token}", user.unwrap_or_default());
            ("authorization", format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login)))
        }
        ForgeName::Github | ForgeName::Bitbucket | ForgeName::BitbucketServer => {
            ("authorization", format!("Bearer {token}"))
        }
        ForgeName::Gitea | ForgeName::Forgejo | ForgeName::Gogs | ForgeName::Gitbucket => {
            ("authorization", format!("token {token}"))
        }
        ForgeName::Gitlab => ("private-token", token.to_owned()),
    };
    let mut value = HeaderValue::from_str(&value)
        .map_err(|_| ApiError::settings("the token cannot be sent in a header"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn started_at(url: &Url, start: &str) -> String {
    let mut next = url.clone();
    let rest: Vec<_> = url.query_pairs().filter(|(name, _)| name != "start").collect();
    next.query_pairs_mut().clear().extend_pairs(rest).append_pair("start", start);
    next.into()
}

#[cfg(test)]
mod tests;
