//! Bearer tokens: their scopes, a token server's answer, and a cache.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// The default of `expires_in` (docker registry token specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Seconds.
const LONGEST_LIFE: f64 = 24.0 * 3600.0;
/// A token is renewed this long before its end, or a tenth of its life if that is shorter.
const MARGIN: Duration = Duration::from_secs(5);

/// `repository:NAME:pull,push` (docker registry token scope documentation), or empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope(String);

impl Scope {
    /// For /v2/.
    pub(super) fn none() -> Scope {
        Scope(String::new())
    }

    pub(super) fn pull(path: &str) -> Scope {
        Scope(format!("repository:{path}:pull"))
    }

    pub(super) fn push(path: &str) -> Scope {
        Scope(format!("repository:{path}:pull,push"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The scope that allows writing too: a token for it also allows reading.
    fn wider(&self) -> Scope {
        let wider = |repository| format!("{repository}:pull,push");
        Scope(self.0.strip_suffix(":pull").map_or_else(|| self.0.clone(), wider))
    }
}

/// A cache of tokens. Time is a parameter.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<Scope, (SecretString, Instant)>);

impl Tokens {
    pub(super) fn get(&self, scope: &Scope, now: Instant) -> Option<SecretString> {
        let good = |scope: &Scope| self.0.get(scope).filter(|(_, end)| now < *end).map(|(t, _)| t.clone());
        good(scope).or_else(|| good(&scope.wider()))
    }

    /// Adds a token that is valid for `life`, and removes expired ones.
    pub(super) fn put(&mut self, scope: Scope, token: SecretString, life: Duration, now: Instant) {
        self.0.retain(|_, (_, end)| now < *end);
        self.0.insert(scope, (token, now + life.saturating_sub(MARGIN.min(life / 10))));
    }

    /// Removes what would be sent for `scope`, because the registry rejected it.
    pub(super) fn forget(&mut self, scope: &Scope) {
        self.0.remove(scope);
        self.0.remove(&scope.wider());
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// The token, and how long it is valid.
pub(super) fn parse(body: &[u8]) -> Result<(SecretString, Duration), &'static str> {
    // serde's own message could quote the token.
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| "the token server's answer is not its JSON")?;
    let filled = |token: &SecretString| !token.expose_secret().is_empty();
    let token = answer.token.filter(filled).or(answer.access_token.filter(filled));
    let token = token.ok_or("the token server's answer holds no token")?;
    let text = answer.expires_in.as_str().and_then(|seconds| seconds.trim().parse().ok());
    let seconds: Option<f64> = answer.expires_in.as_f64().or(text);
    let life = seconds.map(|s| s.min(LONGEST_LIFE)).and_then(|s| Duration::try_from_secs_f64(s).ok());
    Ok((token, life.unwrap_or(DEFAULT_LIFE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[test]
    fn a_token_is_renewed_shortly_before_it_expires() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let scope = Scope::pull("a");
        tokens.put(scope.clone(), secret("t"), Duration::from_secs(60), now);
        assert!(tokens.get(&scope, now + Duration::from_secs(54)).is_some());
        assert!(tokens.get(&scope, now + Duration::from_secs(55)).is_none());
        assert!(tokens.get(&Scope::pull("b"), now).is_none());
    }

    #[test]
    fn a_push_token_also_pulls_but_a_pull_token_does_not_push() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        tokens.put(Scope::pull("a"), secret("r"), Duration::from_secs(60), now);
        assert!(tokens.get(&Scope::push("a"), now).is_none());
        tokens.forget(&Scope::pull("a"));
        tokens.put(Scope::push("a"), secret("w"), Duration::from_secs(60), now);
        assert_eq!(tokens.get(&Scope::pull("a"), now).unwrap().expose_secret(), "w");
        tokens.forget(&Scope::pull("a"));
        assert!(tokens.get(&Scope::push("a"), now).is_none());
    }

    #[test]
    fn a_token_is_valid_for_a_minute_by_default() {
        assert_eq!(parse(br#"{"token":"x"}"#).unwrap().1, Duration::from_secs(60));
        let (token, life) = parse(br#"{"access_token":"y","expires_in":300}"#).unwrap();
        assert_eq!((token.expose_secret(), life), ("y", Duration::from_secs(300)));
        for (text, seconds) in [
            (r#"{"token":"","access_token":"z","expires_in":"90"}"#, 90),
            (r#"{"token":"z","expires_in":90.0}"#, 90),
            (r#"{"token":"z","expires_in":-1}"#, 60),
            (r#"{"token":"z","expires_in":null}"#, 60),
            (r#"{"token":"z","expires_in":1e300}"#, 86_400),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().1, Duration::from_secs(seconds), "{text}");
        }
        assert!(parse(b"{}").is_err());
        assert!(parse(br#"{"token":""}"#).is_err());
        assert!(parse(b"<html>").is_err());
    }
}
