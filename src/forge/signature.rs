//! Does a delivery come from somebody who knows the secret? HMAC-SHA256 over the raw bytes of the body, as GitHub
//! sends it in `X-Hub-Signature-256` (docs.github.com, "Validating webhook deliveries").

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

/// A webhook's secrets, more than one while one is being replaced: none is empty, none is shown.
#[derive(Debug, Clone)]
pub struct WebhookSecret(Vec<SecretSlice<u8>>);

/// Everybody could sign with an empty secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the webhook secret is empty")]
pub struct EmptySecret;

impl WebhookSecret {
    /// One secret, byte for byte.
    ///
    /// # Errors
    /// [`EmptySecret`].
    pub fn new(secret: Vec<u8>) -> Result<WebhookSecret, EmptySecret> {
        if secret.is_empty() { Err(EmptySecret) } else { Ok(WebhookSecret(vec![secret.into()])) }
    }

    /// A delivery may be signed with any of these.
    ///
    /// # Errors
    /// [`EmptySecret`] when there is none, or one of them is empty.
    pub fn any_of(secrets: Vec<SecretString>) -> Result<WebhookSecret, EmptySecret> {
        if secrets.is_empty() || secrets.iter().any(|secret| secret.expose_secret().is_empty()) {
            return Err(EmptySecret);
        }
        Ok(WebhookSecret(secrets.iter().map(|s| s.expose_secret().as_bytes().to_vec().into()).collect()))
    }

    /// Whether `signature` (`sha256=<64 hex digits>`, or the digits alone) was made over `body` with this secret.
    /// Compared in constant time. A missing, empty, cut or SHA-1 signature is simply wrong.
    #[must_use]
    pub fn verifies(&self, body: &[u8], signature: Option<&str>) -> bool {
        let Some(expected) = signature.and_then(decode) else { return false };
        let made_with = |secret: &SecretSlice<u8>| {
            // HMAC takes a key of any length (RFC 2104, section 2), so there is no error to lose here.
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret()) else { return false };
            mac.update(body);
            mac.verify_slice(&expected).is_ok()
        };
        self.0.iter().any(made_with)
    }
}

fn decode(signature: &str) -> Option<[u8; 32]> {
    let signature = signature.trim_ascii();
    let digits = signature.strip_prefix("sha256=").unwrap_or(signature);
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(text: &str) -> WebhookSecret {
        WebhookSecret::new(text.as_bytes().to_vec()).unwrap()
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
            assert!(secret(SECRET).verifies(BODY, Some(&value)), "{value}");
        }
    }

    #[test]
    fn everything_else_is_wrong() {
        let good = format!("sha256={DIGITS}");
        for value in [
            None,
            Some(""),
            Some("sha256="),
            Some("foo"),
            Some(&good[..good.len() - 1]),
            Some(&good[..good.len() - 2]),
            Some(&format!("{good}00")),
            Some(&format!("sha1={DIGITS}")),
            Some("sha1=2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"),
            Some(&format!("sha256=sha256={DIGITS}")),
            Some(&format!("{good},{good}")),
            Some(&good.replace('7', "x")),
        ] {
            assert!(!secret(SECRET).verifies(BODY, value), "{value:?}");
        }
        assert!(!secret("another").verifies(BODY, Some(&good)));
    }

    #[test]
    fn an_empty_secret_does_not_exist() {
        assert_eq!(WebhookSecret::new(vec![]).err(), Some(EmptySecret));
        assert_eq!(WebhookSecret::any_of(vec![]).err(), Some(EmptySecret));
        assert_eq!(WebhookSecret::any_of(vec!["x".into(), "".into()]).err(), Some(EmptySecret));
    }

    #[test]
    fn while_a_secret_is_replaced_both_verify_and_no_other() {
        let both = WebhookSecret::any_of(vec!["new".into(), "old".into()]).unwrap();
        for (key, expected) in [("new", true), ("old", true), ("newold", false), ("other", false)] {
            assert_eq!(both.verifies(BODY, Some(&sign(key, BODY))), expected, "{key}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert!(!format!("{:?}", secret("hunter2")).contains("hunter2"));
        assert!(!format!("{:?}", secret("hunter2")).contains("104"));
    }

    proptest! {
        #[test]
        fn every_flipped_bit_of_a_signed_body_is_refused(
            body in proptest::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let signature = sign("s3cret", &body);
            prop_assert!(secret("s3cret").verifies(&body, Some(&signature)));
            let mut flipped = body.clone();
            flipped[at.index(body.len())] ^= 1 << bit;
            prop_assert!(!secret("s3cret").verifies(&flipped, Some(&signature)));
        }

        #[test]
        fn no_text_in_place_of_a_signature_panics(value in ".*") {
            prop_assert!(!secret("s3cret").verifies(b"body", Some(&value)));
        }
    }
}
