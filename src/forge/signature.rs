//! Verifies the signatures and tokens of deliveries. [`ForgeName::signature_header`] names each forge's header.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

use super::body::{self, Encoding};
use super::headers::{Lookup, unsigned};
use crate::error::Failure;
use crate::model::ForgeName;

/// The largest clock difference to a GitLab delivery (the same as in the reference libraries of Standard Webhooks).
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// The prefix of Standard Webhooks keys.
const STANDARD_KEY: &str = "whsec_";

/// A webhook's secrets: several during a rotation, none of them empty.
#[derive(Debug, Clone)]
pub struct WebhookSecret(Vec<SecretSlice<u8>>);

impl WebhookSecret {
    /// A delivery may be signed with any of these.
    ///
    /// # Errors
    /// If there is none or one of them is empty: anyone could sign with an empty secret.
    pub fn new(secrets: Vec<SecretString>) -> Result<WebhookSecret, Failure> {
        if secrets.is_empty() || secrets.iter().any(|secret| secret.expose_secret().is_empty()) {
            return Err(Failure::bad_input("the webhook secret is empty"));
        }
        Ok(WebhookSecret(secrets.iter().map(|s| s.expose_secret().as_bytes().to_vec().into()).collect()))
    }

    /// Whether `signature` (`sha256=<64 hex digits>`, or only the digits) matches `body` and this secret. Compares in
    /// constant time. An empty, truncated or SHA-1 signature does not match.
    fn verifies(&self, body: &[u8], signature: &str) -> bool {
        let signature = signature.trim_ascii();
        let mut expected = [0; 32];
        let digits = signature.strip_prefix("sha256=").unwrap_or(signature);
        hex::decode_to_slice(digits, &mut expected).is_ok()
            && self.0.iter().any(|secret| is_mac(secret.expose_secret(), &[body], &expected))
    }

    /// Whether the token is one of these secrets.
    fn is_token(&self, token: &str) -> bool {
        // HMAC only serves as a comparison in constant time; the key is not secret.
        let given = mac(b"token", &[token.as_bytes()]).map(|mac| mac.finalize().into_bytes());
        given.is_some_and(|given| self.0.iter().any(|s| is_mac(b"token", &[s.expose_secret()], &given)))
    }

    /// Whether one of the signatures (`v1,BASE64 v1,BASE64`) matches `id.timestamp.body`.
    fn verifies_standard(&self, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
        let keys = self.0.iter().filter_map(|secret| {
            let text = std::str::from_utf8(secret.expose_secret()).ok()?.strip_prefix(STANDARD_KEY)?;
            STANDARD.decode(text).ok().map(SecretSlice::from)
        });
        let made: Vec<Vec<u8>> = signatures
            .split_ascii_whitespace()
            .filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok())
            .collect();
        let message = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
        keys.into_iter()
            .any(|key| made.iter().any(|signature| is_mac(key.expose_secret(), &message, signature)))
    }
}

const STALE: &str = "its webhook-timestamp is more than five minutes from now; are the clocks right?";
const WRONG: &str = "the signature was made with another secret or over another body";

/// Verifies a delivery from this kind of forge. The error says why it is not authenticated: for the log, not for the
/// sender.
pub fn verify(
    forge: ForgeName,
    headers: &Lookup<'_>,
    body: &[u8],
    encoding: Encoding,
    secret: &WebhookSecret,
    now: SystemTime,
) -> Result<(), &'static str> {
    let signature = headers(forge.signature_header(headers)).filter(|value| !value.is_empty());
    let Some(signature) = signature else { return Err(unsigned(headers)) };
    let verified = match forge {
        ForgeName::Gitlab => return verify_gitlab(headers, body, secret, now),
        // The signature covers the JSON, even inside a form.
        ForgeName::Gitea | ForgeName::Forgejo | ForgeName::Gogs => {
            body::json(body, encoding).is_ok_and(|json| secret.verifies(&json, signature))
        }
        ForgeName::Github | ForgeName::Gitbucket | ForgeName::Bitbucket | ForgeName::BitbucketServer => {
            secret.verifies(body, signature)
        }
    };
    if verified { Ok(()) } else { Err(WRONG) }
}

/// A token is the secret itself; signatures use a secret that starts with `whsec_`.
fn verify_gitlab(
    headers: &Lookup<'_>,
    body: &[u8],
    secret: &WebhookSecret,
    now: SystemTime,
) -> Result<(), &'static str> {
    let get = |name: &str| headers(name).unwrap_or_default();
    if secret.is_token(get("x-gitlab-token")) {
        return Ok(());
    }
    let (id, timestamp) = (get("webhook-id"), get("webhook-timestamp"));
    if !secret.verifies_standard(id, timestamp, body, get("webhook-signature")) {
        return Err(WRONG);
    }
    if is_recent(timestamp, now) { Ok(()) } else { Err(STALE) }
}

fn is_recent(timestamp: &str, now: SystemTime) -> bool {
    let seconds = timestamp.parse().ok().filter(|_| timestamp.bytes().all(|byte| byte.is_ascii_digit()));
    let then = seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    then.is_some_and(|then| {
        now.duration_since(then).or_else(|_| then.duration_since(now)).is_ok_and(|apart| apart <= WINDOW)
    })
}

fn mac(key: &[u8], message: &[&[u8]]) -> Option<Hmac<Sha256>> {
    // HMAC accepts keys of any length (RFC 2104, section 2), so this never fails.
    let mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    Some(message.iter().fold(mac, |mac, part| mac.chain_update(part)))
}

fn is_mac(key: &[u8], message: &[&[u8]], expected: &[u8]) -> bool {
    mac(key, message).is_some_and(|mac| mac.verify_slice(expected).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(text: &str) -> WebhookSecret {
        WebhookSecret::new(vec![text.into()]).unwrap()
    }

    /// docs.github.com, "Testing the webhook payload validation".
    const DIGITS: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";

    fn sign(secret: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(body);
        format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn the_vector_of_githubs_documentation_verifies_with_and_without_prefix() {
        for value in
            [format!("sha256={DIGITS}"), DIGITS.to_owned(), format!("sha256={}", DIGITS.to_uppercase())]
        {
            assert!(secret(SECRET).verifies(BODY, &value), "{value}");
        }
    }

    #[test]
    fn any_other_signature_is_rejected() {
        let good = format!("sha256={DIGITS}");
        for value in [
            "",
            "sha256=",
            "foo",
            &good[..good.len() - 1],
            &good[..good.len() - 2],
            &format!("{good}00"),
            &format!("sha1={DIGITS}"),
            "sha1=2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
            &format!("sha256=sha256={DIGITS}"),
            &format!("{good},{good}"),
            &good.replace('7', "x"),
        ] {
            assert!(!secret(SECRET).verifies(BODY, value), "{value:?}");
        }
        assert!(!secret("another").verifies(BODY, &good));
    }

    #[test]
    fn an_empty_secret_is_rejected() {
        for secrets in [vec![], vec!["".into()], vec!["x".into(), "".into()]] {
            assert!(WebhookSecret::new(secrets).is_err());
        }
    }

    #[test]
    fn during_a_rotation_both_secrets_verify_and_no_other() {
        let both = WebhookSecret::new(vec!["new".into(), "old".into()]).unwrap();
        for (key, expected) in [("new", true), ("old", true), ("newold", false), ("other", false)] {
            assert_eq!(both.verifies(BODY, &sign(key, BODY)), expected, "{key}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert!(!format!("{:?}", secret("hunter2")).contains("hunter2"));
        assert!(!format!("{:?}", secret("hunter2")).contains("104"));
    }

    proptest! {
        #[test]
        fn a_signed_body_with_a_flipped_bit_is_refused(
            body in proptest::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let signature = sign("s3cret", &body);
            prop_assert!(secret("s3cret").verifies(&body, &signature));
            let mut flipped = body.clone();
            flipped[at.index(body.len())] ^= 1 << bit;
            prop_assert!(!secret("s3cret").verifies(&flipped, &signature));
        }

        #[test]
        fn arbitrary_text_as_a_signature_does_not_panic(value in ".*") {
            prop_assert!(!secret("s3cret").verifies(b"body", &value));
        }
    }
}
