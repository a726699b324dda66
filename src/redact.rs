//! Secrets that swanci has read, and their removal from every line that it shows or stores.
//!
//! The list is process-wide on purpose: a line comes from anywhere, and one forgotten parameter would leak.

use std::borrow::Cow;
use std::sync::{OnceLock, RwLock};

use base64::Engine as _;
use secrecy::{ExposeSecret, SecretString};

static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Who else has to know of secrets.
static ANNOUNCE: OnceLock<fn(&str)> = OnceLock::new();

/// Shorter values would blank out ordinary text.
const SHORTEST: usize = 6;

/// Remembers a secret, and the base64 form in which git sends it, so that [`scrub`] removes both.
pub fn register(secret: &SecretString) {
    let plain = secret.expose_secret();
    if plain.len() < SHORTEST {
        return;
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{plain}"));
    let mut secrets = SECRETS.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    for form in [plain.to_owned(), encoded] {
        if !secrets.contains(&form) {
            if let Some(announce) = ANNOUNCE.get() {
                announce(&form);
            }
            secrets.push(form);
        }
    }
}

/// Tells every secret, those that are known and those to come, to somebody who hides them too, as the runner of a CI
/// job does. Only the first caller is heard.
pub fn announce(to: fn(&str)) {
    let secrets = SECRETS.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    if ANNOUNCE.set(to).is_ok() {
        secrets.iter().for_each(|secret| to(secret));
    }
}

/// The same text with every known secret, and the password of every URL, replaced by `***`.
pub fn scrub(text: &str) -> Cow<'_, str> {
    let mut clean = Cow::Borrowed(text);
    for secret in SECRETS.read().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        if clean.contains(secret.as_str()) {
            clean = Cow::Owned(clean.replace(secret.as_str(), "***"));
        }
    }
    scrub_url_userinfo(clean)
}

/// `https://user:password@host` → `https://***@host`: a person may have typed a URL with a password.
fn scrub_url_userinfo(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains("://") {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest: &str = &text;
    let mut changed = false;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let word = tail.find(char::is_whitespace).unwrap_or(tail.len());
        let authority = tail[..word].find('/').unwrap_or(word);
        // What stands behind a colon and is no port begins a password, and one may hold a slash that nobody escaped.
        let port = tail[..authority].split_once(':').map(|(_, port)| port);
        let no_port = port.is_some_and(|port| !port.bytes().all(|b| b.is_ascii_digit()));
        let authority = if no_port { word } else { authority };
        match tail[..authority].rfind('@') {
            // In https a user alone is a token; in ssh it is only a user.
            Some(user_end) if tail[..user_end].contains(':') || head.ends_with("https://") => {
                out.push_str("***");
                rest = &tail[user_end..];
                changed = true;
            }
            _ => rest = tail,
        }
    }
    if !changed {
        return text;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_secret_never_shows_in_either_form() {
        register(&SecretString::from("ghp_canary_value"));
        assert_eq!(scrub("token ghp_canary_value!"), "token ***!");
        let encoded = base64::engine::general_purpose::STANDARD.encode("x-access-token:ghp_canary_value");
        assert_eq!(scrub(&encoded), "***");
    }

    #[test]
    fn a_password_in_a_url_never_shows() {
        assert_eq!(
            scrub("fetch https://u:p@h/x and ssh://git@h/y"),
            "fetch https://***@h/x and ssh://git@h/y"
        );
        assert_eq!(scrub("fetch https://canary@h/x"), "fetch https://***@h/x");
        assert_eq!(scrub("`https://u:p/a@ss@h/x` is"), "`https://***@h/x` is");
        for plain in ["plain", "https://h:5000/a@b", "https://[::1]:5000/x", "https://h/a:b@c"] {
            assert_eq!(scrub(plain), plain);
        }
    }
}
