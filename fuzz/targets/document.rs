//! Documents: each must serialise to what was parsed.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use swanci::documents::{BuiltDocument, DecisionDocument, Receipt};

fn round<T: Serialize + DeserializeOwned + Debug>(data: &[u8]) {
    let Ok(document) = serde_json::from_slice::<T>(data) else { return };
    let text = serde_json::to_string(&document).expect("a document can be written");
    let again: T = serde_json::from_str(&text).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).expect("again"), text);
}

fuzz_target!(|data: &[u8]| {
    round::<DecisionDocument>(data);
    round::<BuiltDocument>(data);
    round::<Receipt>(data);
});
