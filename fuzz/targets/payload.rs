//! A payload of any forge: the first byte selects the forge (or inference), the second the event, the rest is the body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use swanci::decide::{BranchGlobs, decide, payload_sha256};
use swanci::documents::DecisionWord;
use swanci::forge::{self, Headers};
use swanci::model::ForgeName;

/// `scripts/fuzz` has the same order.
const EVENTS: [Option<&str>; 8] = [
    None,
    Some("pull_request"),
    Some("push"),
    Some("ping"),
    Some("Merge Request Hook"),
    Some("pullrequest:fulfilled"),
    Some("pr:merged"),
    Some("x\u{1b}[2J"),
];

fuzz_target!(|data: &[u8]| {
    let [forge, event, body @ ..] = data else { return };
    let forge = ForgeName::ALL.get(usize::from(*forge) % 9).copied();
    let headers = Headers { event: EVENTS[usize::from(*event) % 8], forge, ..Headers::default() };
    match forge::parse(body, headers) {
        Ok(delivery) => {
            let decision = decide(delivery, &BranchGlobs::default());
            let document = decision.into_document(payload_sha256(body), true);
            assert!(!document.reason.contains(char::is_control), "{}", document.reason);
            if document.decision == DecisionWord::Build {
                let change = document.change.as_ref().expect("a build has a change");
                assert!(change.branch.is_some() && change.pull_request.is_some());
            }
            let text = serde_json::to_string(&document).expect("a document can be written");
            assert_eq!(
                serde_json::from_str::<swanci::documents::DecisionDocument>(&text).ok(),
                Some(document)
            );
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
    }
});
