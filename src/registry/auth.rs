//! Answers a registry's challenge: Basic, or a Bearer token from the token server that it names.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::cancel::Stop;
use crate::http::is_loopback;

use super::Registry;
use super::challenge::Challenge;
use super::client::{Answer, Request};
use super::credentials::{Credentials, Login, Lookup};
use super::error::RegistryError;
use super::manifest::shown;
use super::token::{self, Scope, Tokens};

/// What one registry is known to want, and the tokens for it.
#[derive(Debug)]
pub(super) struct Authenticator {
    login: Login,
    found: Mutex<Option<Arc<Lookup>>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the registry has ever asked for a login.
    challenged: bool,
    /// The challenge whose answer it accepted last.
    wanted: Option<Challenge>,
    tokens: Tokens,
}

impl Authenticator {
    pub(super) fn new(login: Login) -> Authenticator {
        Authenticator { login, found: Mutex::default(), state: Mutex::default() }
    }

    /// The state is whole after every statement, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the registry has ever asked for a login.
    pub(super) fn is_challenged(&self) -> bool {
        self.state().challenged
    }

    pub(super) fn set_challenged(&self) {
        self.state().challenged = true;
    }

    /// A challenge whose answer was accepted is met from now on before it is made.
    pub(super) fn remember(&self, challenge: Challenge) {
        self.state().wanted = Some(challenge);
    }
}

impl Registry {
    /// The credentials, looked up when they are first wanted; who comes meanwhile waits, so that a helper runs once.
    fn login(&self) -> Result<Arc<Lookup>, Stop> {
        let auth = &self.shared.auth;
        let mut found = auth.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &*found {
            return Ok(Arc::clone(found));
        }
        let lookup = Arc::new(auth.login.look_up(&self.shared.address, &self.cancel)?);
        Ok(Arc::clone(found.insert(lookup)))
    }

    fn basic(&self) -> Result<Option<SecretString>, Stop> {
        Ok(match &self.login()?.credentials {
            Credentials::Password { username, password } => {
                Some(http_auth::basic::encode_credentials(username, password.expose_secret()).into())
            }
            Credentials::Anonymous | Credentials::IdentityToken(_) => None,
        })
    }

    /// Whether nothing can be sent to this registry.
    pub(super) fn is_anonymous(&self) -> Result<bool, Stop> {
        Ok(self.login()?.credentials.is_anonymous())
    }

    /// The Authorization value to send with a first attempt, as far as is known what the registry wants.
    pub(super) fn authorization(&self, request: &Request) -> Result<Option<SecretString>, RegistryError> {
        let wanted = self.shared.auth.state().wanted.clone();
        match wanted {
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

    /// The Authorization value that answers a challenge; `None` when there is nothing to send.
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

    /// A token by GET with Basic, or, for an identity token, by POST as OAuth 2 (docker registry token specification).
    /// No lock is held meanwhile: two threads may fetch the same token, and none waits for another's slow server.
    fn fetch_token(
        &self,
        request: &Request,
        realm: &str,
        service: Option<&str>,
        wanted: Option<&str>,
    ) -> Result<SecretString, RegistryError> {
        let mut url = judge_realm(realm).map_err(|why| RegistryError::RealmRefused {
            host: self.shared.host.clone(),
            realm: shown(realm),
            why,
        })?;
        // Our own scope, so that the token serves the next request too, and what the registry wants besides.
        let mut scopes = request.scope.parts().to_vec();
        let besides = wanted.unwrap_or_default().split_ascii_whitespace().map(str::to_owned);
        scopes.extend(besides.filter(|scope| !request.scope.parts().contains(scope)).collect::<Vec<_>>());
        let at = format!("{} (token from {})", request.at, crate::http::server_of(&url));
        let mut call = Request::get(String::new(), at, Scope::none());
        let mut basic = None;
        let login = self.login()?;
        if let Credentials::IdentityToken(token) = &login.credentials {
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
            for scope in &scopes {
                query.append_pair("scope", scope);
            }
            if let Credentials::Password { username, .. } = &login.credentials {
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

    /// The error of an answer that asks for (other) credentials.
    pub(super) fn unauthorized(&self, answer: &Answer) -> Result<RegistryError, Stop> {
        let login = self.login()?;
        Ok(match &login.error {
            Some(error) if login.credentials.is_anonymous() => RegistryError::Credentials(error.clone()),
            Some(_) | None => RegistryError::Unauthorized {
                host: self.shared.host.clone(),
                at: answer.at.clone(),
                anonymous: login.credentials.is_anonymous(),
                detail: answer.said(),
            },
        })
    }
}

fn bearer(token: &SecretString) -> SecretString {
    format!("Bearer {}", token.expose_secret()).into()
}

/// The token server's URL: on any host by https, as docker takes it, and by plain http on this machine only. The
/// credentials that go there are those that were stored for the registry, and no other registry's.
fn judge_realm(realm: &str) -> Result<Url, String> {
    let url = Url::parse(realm).map_err(|e| format!("it is not a URL: {e}"))?;
    let host = url.host().ok_or("it names no host")?;
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&host) => {}
        _ => return Err("it is not https".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it carries credentials of its own".to_owned());
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
            assert!(judge_realm(good).is_ok(), "{good}");
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
            assert!(judge_realm(bad).is_err(), "{bad}");
        }
    }
}
