//! Build arguments that look like secrets: they would stay visible in `docker history`.

/// The ends of the names of secrets: whole words between `_`, so that `TOKENIZER` or `KEYBOARD` pass.
const NAMES: &str = "TOKEN PASSWORD PASSWD PASSPHRASE PWD SECRET SECRETS APIKEY API_KEY ACCESS_KEY PRIVATE_KEY SECRET_KEY \
                     CREDENTIALS";

/// How well-known tokens begin, and their minimum length (from the documentation of the forges and clouds on secret
/// scanning).
const TOKENS: [(&str, usize); 5] = [
    ("ghp_ gho_ ghu_ ghs_ ghr_ glpat- AKIA ASIA xoxb- xoxp- dckr_pat_ sk_live_", 20),
    ("github_pat_", 30),
    ("AIza", 35),
    ("npm_", 36),
    ("pypi- SG.", 40),
];

/// Why an argument is considered a secret. Empty values, references by file name and plain switches are not.
pub(super) fn looks_secret(name: &str, value: &str) -> Option<&'static str> {
    let value = value.trim();
    if value.contains("-----BEGIN ") && value.contains("PRIVATE KEY-----") {
        return Some("contains a private key");
    }
    let is_token = value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && TOKENS.iter().any(|(prefixes, length)| {
            value.len() >= *length && prefixes.split(' ').any(|prefix| value.starts_with(prefix))
        });
    if is_token {
        return Some("contains what looks like an access token");
    }
    let upper = name.to_ascii_uppercase();
    let is_named = NAMES
        .split(' ')
        .any(|word| upper.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('_')));
    let lower = value.to_ascii_lowercase();
    let harmless = ["", "true", "false", "yes", "no", "0", "1"].contains(&lower.as_str());
    (is_named && !harmless).then_some("is named like a secret")
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
