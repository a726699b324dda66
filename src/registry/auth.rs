//! Answers a registry's challenge: Basic, or a Bearer token from a server that is allowed to know our credentials.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::challenge::Challenge;
use super::client::{Answer, Request, Shared};
use super::credentials::Credentials;
use super::error::RegistryError;
use super::manifest::shown;
use super::token::{self, Scope, Tokens};

/// What one registry is known to want, and the tokens for it.
#[derive(Debug)]
pub(super) struct Authenticator {
    pub(super) credentials: Credentials,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Known>,
    tokens: Tokens,
}

/// What the registry asked for last time.
#[derive(Debug, Clone)]
enum Known {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

impl Authenticator {
    pub(super) fn new(credentials: Credentials) -> Authenticator {
        Authenticator { credentials, state: Mutex::default() }
    }

    /// The state is whole after every statement, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn basic(&self) -> Option<SecretString> {
        match &self.credentials {
            Credentials::Password { username, password } => {
                Some(http_auth::basic::encode_credentials(username, password.expose_secret()).into())
            }
            Credentials::Anonymous | Credentials::IdentityToken(_) => None,
        }
    }
}

impl Shared {
    /// The Authorization value to send with a first attempt, as far as is known what the registry wants.
    pub(super) fn authorization(
        &self,
        request: &Request,
        limit: Duration,
    ) -> Result<Option<SecretString>, RegistryError> {
        let known = self.auth.state().known.clone();
        match known {
            None => Ok(None),
            Some(Known::Basic) => Ok(self.auth.basic()),
            Some(Known::Bearer { realm, service }) => {
                let cached = self.auth.state().tokens.get(&request.scope, Instant::now());
                if let Some(token) = cached {
                    return Ok(Some(bearer(&token)));
                }
                let scopes = request.scope.parts().to_vec();
                self.fetch_token(request, &realm, service.as_deref(), &scopes, limit).map(Some)
            }
        }
    }

    /// The Authorization value that answers a 401; `None` when there is nothing (else) to send.
    pub(super) fn answer_challenge(
        &self,
        request: &Request,
        challenge: Challenge,
        sent: bool,
        limit: Duration,
    ) -> Result<Option<SecretString>, RegistryError> {
        match challenge {
            Challenge::Basic => {
                self.auth.state().known = Some(Known::Basic);
                Ok(if sent { None } else { self.auth.basic() })
            }
            Challenge::Bearer { realm, service, scope } => {
                let realm = judge_realm(&realm, &self.realm_policy()).map_err(|why| {
                    RegistryError::RealmRefused { host: self.host.clone(), realm: shown(&realm), why }
                })?;
                // Our own scope, so that the token serves the next request too; the registry's where we have none.
                let scopes = match (request.scope.parts(), scope) {
                    ([], Some(scope)) => vec![scope],
                    (own, _) => own.to_vec(),
                };
                let mut state = self.auth.state();
                state.tokens.forget(&request.scope);
                state.known = Some(Known::Bearer { realm: realm.clone(), service: service.clone() });
                drop(state);
                self.fetch_token(request, &realm, service.as_deref(), &scopes, limit).map(Some)
            }
        }
    }

    fn realm_policy(&self) -> RealmPolicy<'_> {
        RealmPolicy {
            registry: self.base.host(),
            plain_http: self.base.scheme() == "http",
            docker_hub: self.docker_hub,
            allowed: &self.token_hosts,
        }
    }

    /// A token by GET with Basic, or, for an identity token, by POST as OAuth 2 (docker registry token specification).
    /// No lock is held meanwhile: two threads may fetch the same token, and none waits for another's slow server.
    fn fetch_token(
        &self,
        request: &Request,
        realm: &Url,
        service: Option<&str>,
        scopes: &[String],
        limit: Duration,
    ) -> Result<SecretString, RegistryError> {
        let at = format!("{} (token from {})", request.at, realm.host_str().unwrap_or("?"));
        let mut url = realm.clone();
        let mut call = Request::get(String::new(), at, Scope::none());
        let mut basic = None;
        if let Credentials::IdentityToken(token) = &self.auth.credentials {
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
            drop(query);
            basic = self.auth.basic();
        }
        let answer = self.once(&call, &url, basic.as_ref(), limit)?;
        let (token, life) = match answer.status {
            200 => token::parse(&answer.body).map_err(|why| answer.protocol(why))?,
            401 | 403 => return Err(self.unauthorized(&answer)),
            _ => return Err(answer.failure()),
        };
        self.auth.state().tokens.put(request.scope.clone(), token.clone(), life, Instant::now());
        Ok(bearer(&token))
    }

    /// The error of an answer that asks for (other) credentials.
    pub(super) fn unauthorized(&self, answer: &Answer) -> RegistryError {
        RegistryError::Unauthorized {
            host: self.host.clone(),
            at: answer.at.clone(),
            anonymous: self.auth.credentials.is_anonymous(),
            detail: answer.said(),
        }
    }
}

fn bearer(token: &SecretString) -> SecretString {
    format!("Bearer {}", token.expose_secret()).into()
}

/// Where the tokens of one registry may come from.
#[derive(Debug, Clone)]
struct RealmPolicy<'a> {
    registry: Option<Host<&'a str>>,
    plain_http: bool,
    docker_hub: bool,
    allowed: &'a [String],
}

/// The token server's URL, if credentials may go there: https, and the registry's own host (on any port), one that was
/// allowed by name, or Docker Hub's for Docker Hub. http only where the registry itself is plain http on loopback. A
/// sibling or a subdomain is another host: on shared domains it is another tenant.
fn judge_realm(realm: &str, policy: &RealmPolicy<'_>) -> Result<Url, String> {
    let url = Url::parse(realm).map_err(|e| format!("it is no URL: {e}"))?;
    let host = url.host().ok_or("it names no host")?;
    let loopback = is_loopback(&host);
    match url.scheme() {
        "https" => {}
        "http" if policy.plain_http && loopback => {}
        "http" => return Err("it is not https".to_owned()),
        _ => return Err("it is not https".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it carries credentials of its own".to_owned());
    }
    let name = host.to_string();
    let own = policy.registry.as_ref().is_some_and(|own| own.to_string() == name);
    let listed = policy.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(&name));
    if own || listed || (policy.docker_hub && name == "auth.docker.io") {
        Ok(url)
    } else {
        Err(format!("{name} is neither the registry's own host nor an allowed one"))
    }
}

/// Whether a URL's host is this machine.
pub(super) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_only_to_the_registrys_own_host_over_https() {
        let allowed = ["sso.example.net".to_owned()];
        let policy = |registry, plain_http, docker_hub| RealmPolicy {
            registry: Some(registry),
            plain_http,
            docker_hub,
            allowed: &allowed,
        };
        let own = policy(Host::Domain("r.example.org"), false, false);
        for good in
            ["https://r.example.org/token", "https://R.example.org:8443/t?x=y", "https://sso.example.net/"]
        {
            assert!(judge_realm(good, &own).is_ok(), "{good}");
        }
        for bad in [
            "http://r.example.org/token",
            "https://evil.example.org/",
            "https://a.r.example.org/",
            "https://r.example.org.evil.net/",
            "https://example.org/",
            "https://r.example.org@evil.net/",
            "https://user:pw@r.example.org/",
            "https://auth.docker.io/token",
            "file:///etc/passwd",
            "/token",
            "http://127.0.0.1/",
            "",
        ] {
            assert!(judge_realm(bad, &own).is_err(), "{bad}");
        }
        let hub = policy(Host::Domain("registry-1.docker.io"), false, true);
        assert!(judge_realm("https://auth.docker.io/token", &hub).is_ok());
        assert!(judge_realm("https://evil.docker.io/token", &hub).is_err());
        let loopback = policy(Host::Ipv4([127, 0, 0, 1].into()), true, false);
        assert!(judge_realm("http://127.0.0.1:5001/token", &loopback).is_ok());
        assert!(judge_realm("http://127.0.0.2:5001/token", &loopback).is_err());
        assert!(judge_realm("http://sso.example.net/token", &loopback).is_err());
    }
}
