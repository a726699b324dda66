//! The signature of a delivery: the first byte selects the forge, the first line is the header, the rest is the body.

#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use swanci::forge::Encoding;
use swanci::forge::signature::{WebhookSecret, verify};
use swanci::model::ForgeName;

fuzz_target!(|data: &[u8]| {
    let Some((forge, rest)) = data.split_first() else { return };
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (value, body) = rest.split_at(end);
    let Ok(value) = std::str::from_utf8(value) else { return };
    let forge = ForgeName::ALL[usize::from(*forge) % 8];
    // No input is signed with these, so none may be verified.
    let secrets =
        vec!["67c38bd5f2c1f0a6cbb0d1e5d6a3b4e1".into(), "whsec_Z3Vlc3MgdGhpcyBpZiB5b3UgY2Fu".into()];
    let secret = WebhookSecret::new(secrets).expect("two secrets");
    let headers = |name: &str| (name.starts_with("x-") || name.starts_with("webhook-")).then_some(value);
    for encoding in [Encoding::Json, Encoding::Form, Encoding::Detect] {
        assert!(verify(forge, &headers, body, encoding, &secret, SystemTime::now()).is_err());
    }
});
