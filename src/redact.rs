//! Removes known secrets from everything that swanci shows or stores.
//!
//! The list is global on purpose: text comes from everywhere, and one forgotten parameter would leak.

use std::borrow::Cow;
use std::io::Read as _;
use std::path::Path;
use std::sync::{OnceLock, PoisonError, RwLock};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use secrecy::{ExposeSecret, SecretString};

static SECRETS: RwLock<Secrets> = RwLock::new(Secrets { texts: Vec::new(), search: None });

struct Secrets {
    texts: Vec<String>,
    /// `None` without secrets.
    search: Option<AhoCorasick>,
}

/// Gets every secret too.
static ANNOUNCE: OnceLock<fn(&str)> = OnceLock::new();

/// Bytes; shorter values are often ordinary text.
const SHORTEST: usize = 6;
/// Characters of a line in a build secret's file.
const SHORTEST_LINE: usize = 8;
/// BuildKit's limit for a build secret's file, bytes.
const LARGEST_FILE: u64 = 500 << 10;

/// Makes [`scrub`] remove this secret.
pub(crate) fn register(secret: &SecretString) {
    add(&[secret.expose_secret()]);
}

/// Also the form in which git sends the token with its login.
pub(crate) fn register_login(login: &str, token: &SecretString) {
    let token = token.expose_secret();
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{login}:{token}"));
    add(&[token, &encoded]);
}

/// A build secret: the whole file, and each line by itself, because output is scrubbed line by line.
pub(crate) fn register_file(path: &Path) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LARGEST_FILE).read_to_end(&mut bytes)?;
    // Invalid UTF-8 in output is replaced in the same way.
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(trimmed).filter(|line| line.chars().count() >= SHORTEST_LINE);
    add(&lines.chain([trimmed(&text)]).collect::<Vec<_>>());
    Ok(())
}

/// Without the byte order mark, spaces and line breaks that editors add.
pub(crate) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

fn add(texts: &[&str]) {
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    let mut known = std::mem::take(&mut secrets.texts);
    let before = known.len();
    for text in texts {
        if text.len() >= SHORTEST && !known.iter().any(|k| k == text) {
            if let Some(announce) = ANNOUNCE.get() {
                announce(text);
            }
            known.push((*text).to_owned());
        }
    }
    if known.len() > before {
        // It fails only beyond billions of patterns.
        secrets.search = AhoCorasick::new(&known).ok();
    }
    secrets.texts = known;
}

/// Calls `to` with every secret, known and future: the runner of a CI job hides them too. Only the first call has an
/// effect.
pub(crate) fn announce(to: fn(&str)) {
    let secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    if ANNOUNCE.set(to).is_ok() {
        secrets.texts.iter().for_each(|secret| to(secret));
    }
}

/// Replaces every known secret, and the password in every URL, by `***`.
pub(crate) fn scrub(text: &str) -> Cow<'_, str> {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let clean = match &secrets.search {
        Some(search) => without(search, text),
        None => Cow::Borrowed(text),
    };
    drop(secrets);
    scrub_url_userinfo(clean)
}

/// Secrets may contain each other or overlap: removes what any of them covers.
fn without<'t>(search: &AhoCorasick, text: &'t str) -> Cow<'t, str> {
    let mut found: Vec<_> = search.find_overlapping_iter(text).map(|m| m.range()).collect();
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    found.sort_unstable_by_key(|range| range.start);
    let (mut out, mut end) = (String::with_capacity(text.len()), 0);
    for range in found {
        // Ranges that overlap or touch give one `***`.
        if range.start > end || out.is_empty() {
            out.push_str(&text[end..range.start]);
            out.push_str("***");
        }
        end = end.max(range.end);
    }
    out.push_str(&text[end..]);
    Cow::Owned(out)
}

/// `https://user:password@host` → `https://***@host`.
fn scrub_url_userinfo(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains("://") {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest: &str = &text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let word = tail.find(char::is_whitespace).unwrap_or(tail.len());
        let authority = tail[..word].find('/').unwrap_or(word);
        // What follows a colon and is not a port is a password, which may contain an unescaped slash.
        let port = tail[..authority].split_once(':').map(|(_, port)| port);
        let no_port = port.is_some_and(|port| !port.bytes().all(|b| b.is_ascii_digit()));
        let authority = if no_port { word } else { authority };
        match tail[..authority].rfind('@') {
            // In https a user alone is a token; in ssh it is a name.
            Some(user_end) if tail[..user_end].contains(':') || head.ends_with("https://") => {
                out.push_str("***");
                rest = &tail[user_end..];
            }
            _ => rest = tail,
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_registered_secret_is_removed_in_both_forms() {
        register_login("x-access-token", &SecretString::from("ghp_canary_value"));
        assert_eq!(scrub("token ghp_canary_value!"), "token ***!");
        let encoded = base64::engine::general_purpose::STANDARD.encode("x-access-token:ghp_canary_value");
        assert_eq!(scrub(&encoded), "***");
    }

    #[test]
    fn a_build_secret_is_removed_as_a_whole_and_by_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}-----BEGIN KEY-----\r\n  b1c2d3e4f5\r\nshort\r\n").unwrap();
        register_file(file.path()).unwrap();
        assert_eq!(scrub("the line b1c2d3e4f5 and a short one"), "the line *** and a short one");
        std::fs::write(file.path(), "one-line-token\n").unwrap();
        register_file(file.path()).unwrap();
        assert_eq!(scrub("npm: one-line-token"), "npm: ***");
        assert!(register_file(Path::new("/nothing/there")).is_err());
    }

    #[test]
    fn overlapping_secrets_are_removed_completely() {
        for secret in ["inner-part", "outer-inner-part-end", "end-of-another"] {
            register(&SecretString::from(secret));
        }
        for (text, expected) in [
            ("a outer-inner-part-end b", "a *** b"),
            ("outer-inner-part-end-of-another", "***"),
            ("inner-partinner-part", "***"),
        ] {
            assert_eq!(scrub(text), expected);
        }
    }

    proptest! {
        #[test]
        fn no_secret_stays_in_a_text(
            secrets in proptest::collection::vec("[a-cü\"\\\\]{6,12}", 1..6), order in any::<u64>(), between in "[a-cü ]{0,3}",
        ) {
            for secret in &secrets {
                register(&SecretString::from(secret.clone()));
            }
            let at = |i: u64| &secrets[usize::try_from(i % secrets.len() as u64).unwrap()];
            let text = format!("{between}{}{between}{}{}", at(order), at(order / 7), at(order / 49));
            let scrubbed = scrub(&text);
            for secret in &secrets {
                prop_assert!(!scrubbed.contains(secret.as_str()), "{secret} in {scrubbed}, from {text}");
            }
        }
    }

    #[test]
    fn a_password_in_a_url_is_removed() {
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
