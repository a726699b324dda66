//! Build arguments that look like secrets: they would stay visible in `docker history`.

/// Words that end the name of a secret. Whole words between `_`, so that `TOKENIZER` or `KEYBOARD` pass.
const NAMES: [&str; 13] = [
    "TOKEN",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PWD",
    "SECRET",
    "SECRETS",
    "APIKEY",
    "API_KEY",
    "ACCESS_KEY",
    "PRIVATE_KEY",
    "SECRET_KEY",
    "CREDENTIALS",
];

/// How well-known tokens begin, and how long they are at least. Sources: the forges' and clouds' own docs on secret
/// scanning.
const PREFIXES: [(&str, usize); 17] = [
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 30),
    ("glpat-", 20),
    ("AKIA", 20),
    ("ASIA", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("npm_", 36),
    ("dckr_pat_", 20),
    ("pypi-", 40),
    ("sk_live_", 20),
    ("AIza", 35),
    ("SG.", 40),
];

/// Why an argument is taken for a secret. Empty values, references by file name and plain switches are not.
pub(super) fn looks_secret(name: &str, value: &str) -> Option<&'static str> {
    let value = value.trim();
    if value.contains("-----BEGIN ") && value.contains("PRIVATE KEY-----") {
        return Some("holds a private key");
    }
    let known = PREFIXES.iter().any(|(prefix, length)| {
        value.starts_with(prefix)
            && value.len() >= *length
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    });
    if known {
        return Some("holds what looks like an access token");
    }
    let upper = name.to_ascii_uppercase();
    let named = NAMES
        .iter()
        .any(|word| upper.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('_')));
    let harmless = value.is_empty()
        || matches!(value.to_ascii_lowercase().as_str(), "true" | "false" | "yes" | "no" | "0" | "1");
    (named && !harmless).then_some("is named like a secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_settings() {
        let token = format!("ghp_{}", "a1B2".repeat(9));
        for (name, value, secret) in [
            ("NPM_TOKEN", "x", true),
            ("token", "x", true),
            ("DB_PASSWORD", "hunter2", true),
            ("AWS_SECRET_ACCESS_KEY", "x", true),
            ("MY_API_KEY", "x", true),
            ("CLIENT_SECRET", "x", true),
            ("X", &token, true),
            ("X", "AKIAIOSFODNN7EXAMPLE", true),
            ("KEY", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc", true),
            ("NPM_TOKEN", "", false),
            ("USE_TOKEN", "true", false),
            ("TOKENIZER", "bpe", false),
            ("TOKEN_URL", "https://x", false),
            ("KEYBOARD", "de", false),
            ("VERSION", "1.2.3", false),
            ("COMMIT", "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1", false),
            ("CERT", "-----BEGIN CERTIFICATE-----", false),
            ("NAME", "ghp_short", false),
            ("PACKAGE", "npm_config", false),
        ] {
            assert_eq!(looks_secret(name, value).is_some(), secret, "{name}={value}");
        }
    }
}
