//! Answers a registry's challenge: Basic, or a Bearer token from the token server that it names.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http_auth::ChallengeParser;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use ureq::http::header;
use url::Url;

use crate::cancel::Stop;
use crate::http::shown;
use crate::model::is_loopback;

use super::Registry;
use super::answer::Reply;
use super::client::Request;
use super::credentials::{Credentials, Looked};
use super::error::{RegistryError, RegistryErrorKind as Kind};

/// The default of `expires_in` (docker registry token specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Seconds.
const LONGEST_LIFE: f64 = 24.0 * 3600.0;
/// A token is renewed this long before its end, or a tenth of its life if that is shorter.
const MARGIN: Duration = Duration::from_secs(5);

/// What a registry asks for in `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    /// A token from the server at `realm`, a URL that is not validated (docker registry token specification).
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The challenges that swanci can answer, Bearer before Basic, as docker answers them.
pub(super) fn challenges<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let (mut known, mut basic) = (Vec::new(), false);
    for challenge in headers.flat_map(|header| ChallengeParser::new(header).map_while(Result::ok)) {
        let param = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        basic |= challenge.scheme.eq_ignore_ascii_case("basic");
        if challenge.scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = param("realm")
        {
            known.push(Challenge::Bearer { realm, service: param("service"), scope: param("scope") });
        }
    }
    known.extend(basic.then_some(Challenge::Basic));
    known
}

/// The scope of a token (docker registry token scope documentation).
pub(super) fn pull(path: &str) -> String {
    format!("repository:{path}:pull")
}

pub(super) fn push(path: &str) -> String {
    format!("repository:{path}:pull,push")
}

/// The scope that allows writing too: a token for it also allows reading.
fn wider(scope: &str) -> String {
    if scope.ends_with(":pull") { format!("{scope},push") } else { scope.to_owned() }
}

/// A cache of tokens by scope, as Authorization values. Time is a parameter.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<String, (SecretString, Instant)>);

impl Tokens {
    fn get(&self, scope: &str, now: Instant) -> Option<SecretString> {
        let good = |scope: &str| self.0.get(scope).filter(|(_, end)| now < *end).map(|(t, _)| t.clone());
        good(scope).or_else(|| good(&wider(scope)))
    }

    /// Adds a token that is valid for `life`, and removes expired ones.
    fn put(&mut self, scope: &str, token: SecretString, life: Duration, now: Instant) {
        self.0.retain(|_, (_, end)| now < *end);
        self.0.insert(scope.to_owned(), (token, now + life.saturating_sub(MARGIN.min(life / 10))));
    }

    /// Removes what would be sent for `scope`, because the registry rejected it.
    fn forget(&mut self, scope: &str) {
        self.0.remove(scope);
        self.0.remove(&wider(scope));
    }
}

/// The token of a token server's answer, and how long it is valid.
fn parse_token(body: &[u8]) -> Result<(SecretString, Duration), &'static str> {
    #[derive(Deserialize)]
    struct TokenAnswer {
        token: Option<SecretString>,
        access_token: Option<SecretString>,
        #[serde(default)]
        expires_in: serde_json::Value,
    }
    // serde's own message could quote the token.
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| "the token server's answer is not its JSON")?;
    let filled = |token: &SecretString| !token.expose_secret().is_empty();
    let token = answer.token.filter(filled).or(answer.access_token.filter(filled));
    let token = token.ok_or("the token server's answer contains no token")?;
    let text = answer.expires_in.as_str().and_then(|seconds| seconds.trim().parse().ok());
    let seconds: Option<f64> = answer.expires_in.as_f64().or(text);
    let life = seconds.map(|s| s.min(LONGEST_LIFE)).and_then(|s| Duration::try_from_secs_f64(s).ok());
    Ok((token, life.unwrap_or(DEFAULT_LIFE)))
}

impl Registry {
    /// Looks the credentials up at the first use. Concurrent callers wait, so that a helper runs once.
    fn login(&self) -> Result<Arc<Looked>, Stop> {
        let mut looked = self.shared.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(looked) = &*looked {
            return Ok(Arc::clone(looked));
        }
        let new = Arc::new(self.shared.login.look_up(&self.shared.settings.address, &self.cancel)?);
        Ok(Arc::clone(looked.insert(new)))
    }

    fn basic(&self) -> Result<Option<SecretString>, Stop> {
        Ok(match &self.login()?.0 {
            Credentials::Password { username, password } => {
                Some(http_auth::basic::encode_credentials(username, password.expose_secret()).into())
            }
            Credentials::Anonymous | Credentials::IdentityToken(_) => None,
        })
    }

    pub(super) fn is_anonymous(&self) -> Result<bool, Stop> {
        Ok(self.login()?.0.is_anonymous())
    }

    /// The Authorization value for a first attempt, when the registry is known to require one.
    pub(super) fn authorization(&self, request: &Request) -> Result<Option<SecretString>, RegistryError> {
        let accepted = self.shared.state().accepted.clone();
        let cached = self.shared.state().tokens.get(&request.scope, Instant::now());
        match (accepted, cached) {
            (None, _) => Ok(None),
            (Some(Challenge::Bearer { .. }), Some(token)) => Ok(Some(token)),
            // Its scope is of another request.
            (Some(Challenge::Bearer { realm, service, .. }), None) => {
                self.answer(request, &Challenge::Bearer { realm, service, scope: None })
            }
            (Some(Challenge::Basic), _) => Ok(self.basic()?),
        }
    }

    /// Answers the challenges of a 401, Bearer before Basic, until one is accepted.
    pub(super) fn log_in(
        &self,
        request: &Request,
        url: &Url,
        challenged: &Reply,
        sent: Option<&SecretString>,
    ) -> Result<(Reply, Option<SecretString>), RegistryError> {
        {
            let mut known = self.shared.state();
            known.challenged = true;
            known.tokens.forget(&request.scope);
        }
        let asked = challenged.headers.get_all(header::WWW_AUTHENTICATE);
        let mut refused = None;
        for challenge in challenges(asked.iter().filter_map(|v| v.to_str().ok())) {
            let authorization = match self.answer(request, &challenge) {
                Ok(Some(authorization)) => authorization,
                Ok(None) => continue,
                Err(error) if error.is_transient() || matches!(error.kind, Kind::Stopped(_)) => {
                    return Err(error);
                }
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            if sent.is_some_and(|sent| sent.expose_secret() == authorization.expose_secret()) {
                continue; // the registry just refused it
            }
            let reply = self.once(request, url, Some(&authorization))?;
            if reply.status != 401 {
                self.shared.state().accepted = Some(challenge);
                return Ok((reply, Some(authorization)));
            }
            // A fresh token that is refused: the user is known and lacks the right (RFC 6750, insufficient_scope).
            let known = matches!(challenge, Challenge::Bearer { .. }) && !self.is_anonymous()?;
            refused.get_or_insert(if known { reply.denied() } else { self.unauthorized(&reply)? });
        }
        match refused {
            Some(error) => Err(error),
            None => Err(self.unauthorized(challenged)?),
        }
    }

    /// The Authorization value that answers a challenge; `None` without credentials for it.
    ///
    /// Gets a token by GET with Basic, or, for an identity token, by POST with OAuth 2 (docker registry token
    /// specification). Holds no lock, so that no thread waits for another's slow server: two may fetch the same token.
    fn answer(
        &self,
        request: &Request,
        challenge: &Challenge,
    ) -> Result<Option<SecretString>, RegistryError> {
        let Challenge::Bearer { realm, service, scope } = challenge else { return Ok(self.basic()?) };
        let mut url = check_realm(realm).map_err(|why| {
            let (host, realm) = (self.host(), shown(realm));
            let message = format!("registry {host}: its token server `{realm}` is refused: {why}");
            RegistryError::with_message(Kind::RealmRefused, host, message)
        })?;
        // Our own scope, so that the token serves the next request too, and any others that the registry requests.
        let own = request.scope.as_str();
        let others =
            scope.as_deref().unwrap_or_default().split_ascii_whitespace().filter(|scope| *scope != own);
        let scopes: Vec<&str> =
            std::iter::once(own).chain(others).filter(|scope| !scope.is_empty()).collect();
        let at = format!("{} (token from {})", request.at, crate::http::server_of(&url));
        let mut call = Request::new("GET", String::new(), at, String::new());
        let mut basic = None;
        let login = self.login()?;
        let service = service.as_deref().map(|service| ("service", service));
        if let Credentials::IdentityToken(token) = &login.0 {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("client_id", "swanci");
            form.append_pair("refresh_token", token.expose_secret()).append_pair("scope", &scopes.join(" "));
            form.extend_pairs(service);
            call.method = "POST";
            call.headers = vec![(header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned())];
            call.body = form.finish().into_bytes();
        } else {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(service).extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
            if let Credentials::Password { username, .. } = &login.0 {
                query.append_pair("account", username);
            }
            drop(query);
            basic = self.basic()?;
        }
        let reply = self.once(&call, &url, basic.as_ref())?;
        let reply = self.follow(&call, url, reply, basic.as_ref())?;
        let (token, life) = match reply.status {
            200 => parse_token(&reply.body).map_err(|why| reply.protocol(why))?,
            401 => return Err(self.unauthorized(&reply)?),
            _ => return Err(reply.failure()),
        };
        let token = SecretString::from(format!("Bearer {}", token.expose_secret()));
        self.shared.state().tokens.put(&request.scope, token.clone(), life, Instant::now());
        Ok(Some(token))
    }

    /// The error for an answer that asks for (other) credentials: without any, why their lookup failed.
    fn unauthorized(&self, reply: &Reply) -> Result<RegistryError, Stop> {
        let login = self.login()?;
        let (credentials, lookup_error) = &*login;
        let anonymous = credentials.is_anonymous();
        let what = match lookup_error {
            Some(error) if anonymous => return Ok(error.clone()),
            Some(_) | None if anonymous => "a login is needed",
            Some(_) | None => "the credentials were not accepted",
        };
        Ok(reply.error(Kind::Unauthorized { anonymous }, &format!("{what}: {}", reply.message())))
    }
}

/// The token server's URL: https on any host, as in docker, or plain http on this machine. Only the credentials that are
/// stored for the registry go there.
fn check_realm(realm: &str) -> Result<Url, String> {
    let url = Url::parse(realm).map_err(|e| format!("it is not a URL: {e}"))?;
    let host = url.host_str().ok_or("it names no host")?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(host) => {}
        _ => return Err("it is not https".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it contains credentials".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_over_https_or_stay_on_this_machine() {
        for good in [
            "https://r.example.org/token",
            "https://gitlab.example.org:8443/jwt/auth?x=y",
            "https://auth.docker.io/token",
            "http://127.0.0.1:5001/token",
            "http://localhost:3000/v2/token",
            "http://[::1]:1/",
        ] {
            assert!(check_realm(good).is_ok(), "{good}");
        }
        for bad in [
            "http://r.example.org/token",
            "http://127.0.0.1.example.org/",
            "http://10.0.0.1/token",
            "https://user:pw@r.example.org/",
            "file:///etc/passwd",
            "/token",
            "",
        ] {
            assert!(check_realm(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bearer_challenge_comes_first_with_all_its_parameters() {
        let header = r#"Basic realm="r", Bearer realm="https://auth.example.org/token",service="reg",scope="repository:a/b:pull,push""#;
        assert_eq!(
            challenges([header].into_iter()),
            [
                Challenge::Bearer {
                    realm: "https://auth.example.org/token".into(),
                    service: Some("reg".into()),
                    scope: Some("repository:a/b:pull,push".into()),
                },
                Challenge::Basic,
            ]
        );
    }

    #[test]
    fn basic_is_found_in_any_header_and_nonsense_is_ignored() {
        assert_eq!(
            challenges(["Negotiate", "basic realm=\"Registry Realm\""].into_iter()),
            [Challenge::Basic]
        );
        assert_eq!(
            challenges(["", ",,,", "Bearer", "Bearer service=\"x\"", "Digest realm=\"x"].into_iter()),
            []
        );
    }

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[test]
    fn a_token_is_renewed_shortly_before_it_expires() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let scope = pull("a");
        tokens.put(&scope, secret("t"), Duration::from_secs(60), now);
        assert!(tokens.get(&scope, now + Duration::from_secs(54)).is_some());
        assert!(tokens.get(&scope, now + Duration::from_secs(55)).is_none());
        assert!(tokens.get(&pull("b"), now).is_none());
    }

    #[test]
    fn a_push_token_also_pulls_but_a_pull_token_does_not_push() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        tokens.put(&pull("a"), secret("r"), Duration::from_secs(60), now);
        assert!(tokens.get(&push("a"), now).is_none());
        tokens.forget(&pull("a"));
        tokens.put(&push("a"), secret("w"), Duration::from_secs(60), now);
        assert_eq!(tokens.get(&pull("a"), now).unwrap().expose_secret(), "w");
        tokens.forget(&pull("a"));
        assert!(tokens.get(&push("a"), now).is_none());
    }

    #[test]
    fn a_token_is_valid_for_a_minute_by_default() {
        assert_eq!(parse_token(br#"{"token":"x"}"#).unwrap().1, Duration::from_secs(60));
        let (token, life) = parse_token(br#"{"access_token":"y","expires_in":300}"#).unwrap();
        assert_eq!((token.expose_secret(), life), ("y", Duration::from_secs(300)));
        for (text, seconds) in [
            (r#"{"token":"","access_token":"z","expires_in":"90"}"#, 90),
            (r#"{"token":"z","expires_in":90.0}"#, 90),
            (r#"{"token":"z","expires_in":-1}"#, 60),
            (r#"{"token":"z","expires_in":null}"#, 60),
            (r#"{"token":"z","expires_in":1e300}"#, 86_400),
        ] {
            assert_eq!(parse_token(text.as_bytes()).unwrap().1, Duration::from_secs(seconds), "{text}");
        }
        assert!(parse_token(b"{}").is_err());
        assert!(parse_token(br#"{"token":""}"#).is_err());
        assert!(parse_token(b"<html>").is_err());
    }
}
