//! Answers a registry's challenge: Basic, or a Bearer token from the token server that it names.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::cancel::Stop;
use crate::http::shown;
use crate::model::is_loopback;

use super::Registry;
use super::answer::Answer;
use super::challenge::Challenge;
use super::client::Request;
use super::credentials::{Credentials, Login};
use super::error::{RegistryError, RegistryErrorKind as Kind};
use super::token::{self, Scope, Tokens};

/// The credentials, and an error of their lookup.
type Found = (Credentials, Option<RegistryError>);

#[derive(Debug)]
pub(super) struct Authenticator {
    login: Login,
    found: Mutex<Option<Arc<Found>>>,
    state: Mutex<State>,
}

/// What the registry is known to want.
#[derive(Debug, Default)]
struct State {
    /// Whether the registry has ever asked for a login.
    challenged: bool,
    /// The challenge whose answer it accepted last.
    accepted: Option<Challenge>,
    tokens: Tokens,
}

impl Authenticator {
    pub(super) fn new(login: Login) -> Authenticator {
        Authenticator { login, found: Mutex::default(), state: Mutex::default() }
    }

    /// The state is consistent after every statement, so a panic elsewhere does not corrupt it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_challenged(&self) -> bool {
        self.state().challenged
    }

    pub(super) fn set_challenged(&self) {
        self.state().challenged = true;
    }

    /// Later requests answer this challenge in advance.
    pub(super) fn remember(&self, challenge: Challenge) {
        self.state().accepted = Some(challenge);
    }
}

impl Registry {
    /// Looks the credentials up at the first use. Concurrent callers wait, so that a helper runs once.
    fn login(&self) -> Result<Arc<Found>, Stop> {
        let auth = &self.shared.auth;
        let mut found = auth.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &*found {
            return Ok(Arc::clone(found));
        }
        let new = Arc::new(auth.login.look_up(&self.shared.address, &self.cancel)?);
        Ok(Arc::clone(found.insert(new)))
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

    /// The Authorization value for a first attempt, when the registry is known to want one.
    pub(super) fn authorization(&self, request: &Request) -> Result<Option<SecretString>, RegistryError> {
        let accepted = self.shared.auth.state().accepted.clone();
        match accepted {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.basic()?),
            Some(Challenge::Bearer { realm, service, .. }) => {
                let cached = self.shared.auth.state().tokens.get(&request.scope, Instant::now());
                if let Some(token) = cached {
                    return Ok(Some(bearer(&token)));
                }
                self.fetch_token(request, &realm, service.as_deref(), None).map(Some)
            }
        }
    }

    /// The Authorization value that answers a challenge; `None` without credentials for it.
    pub(super) fn answer(
        &self,
        request: &Request,
        challenge: &Challenge,
    ) -> Result<Option<SecretString>, RegistryError> {
        match challenge {
            Challenge::Basic => Ok(self.basic()?),
            Challenge::Bearer { realm, service, scope } => {
                self.shared.auth.state().tokens.forget(&request.scope);
                self.fetch_token(request, realm, service.as_deref(), scope.as_deref()).map(Some)
            }
        }
    }

    /// Gets a token by GET with Basic, or, for an identity token, by POST with OAuth 2 (docker registry token
    /// specification). Holds no lock, so that no thread waits for another's slow server: two may fetch the same token.
    fn fetch_token(
        &self,
        request: &Request,
        realm: &str,
        service: Option<&str>,
        wanted: Option<&str>,
    ) -> Result<SecretString, RegistryError> {
        let mut url = check_realm(realm).map_err(|why| {
            let (host, realm) = (&self.shared.host, shown(realm));
            let message = format!("registry {host}: its token server `{realm}` is refused: {why}");
            RegistryError::with_message(Kind::RealmRefused, host, message)
        })?;
        // Our own scope, so that the token serves the next request too, and any others that the registry wants.
        let own = request.scope.as_str();
        let others = wanted.unwrap_or_default().split_ascii_whitespace().filter(|scope| *scope != own);
        let scopes: Vec<&str> =
            std::iter::once(own).chain(others).filter(|scope| !scope.is_empty()).collect();
        let at = format!("{} (token from {})", request.at, crate::http::server_of(&url));
        let mut call = Request::get(String::new(), at, Scope::none());
        let mut basic = None;
        let login = self.login()?;
        let credentials = &login.0;
        if let Credentials::IdentityToken(token) = credentials {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("client_id", "swanci");
            form.append_pair("refresh_token", token.expose_secret()).append_pair("scope", &scopes.join(" "));
            if let Some(service) = service {
                form.append_pair("service", service);
            }
            call.method = "POST";
            call.content_type = Some("application/x-www-form-urlencoded".to_owned());
            call.body = form.finish().into_bytes();
        } else {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for scope in scopes {
                query.append_pair("scope", scope);
            }
            if let Credentials::Password { username, .. } = credentials {
                query.append_pair("account", username);
            }
            drop(query);
            basic = self.basic()?;
        }
        let answer = self.once(&call, &url, basic.as_ref())?;
        let answer = self.follow(&call, url, answer, basic.as_ref())?;
        let (token, life) = match answer.status {
            200 => token::parse(&answer.body).map_err(|why| answer.protocol(why))?,
            401 => return Err(self.unauthorized(&answer)?),
            _ => return Err(answer.failure()),
        };
        self.shared.auth.state().tokens.put(request.scope.clone(), token.clone(), life, Instant::now());
        Ok(bearer(&token))
    }

    /// The error for an answer that asks for (other) credentials: without any, why their lookup failed.
    pub(super) fn unauthorized(&self, answer: &Answer) -> Result<RegistryError, Stop> {
        let login = self.login()?;
        let (credentials, lookup_error) = &*login;
        let anonymous = credentials.is_anonymous();
        let what = match lookup_error {
            Some(error) if anonymous => return Ok(error.clone()),
            Some(_) | None if anonymous => "a login is needed",
            Some(_) | None => "the credentials were not accepted",
        };
        Ok(answer.error(Kind::Unauthorized { anonymous }, &format!("{what}: {}", answer.said())))
    }
}

fn bearer(token: &SecretString) -> SecretString {
    format!("Bearer {}", token.expose_secret()).into()
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
}
