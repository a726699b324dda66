//! What the forges' payloads have in common on the wire: a JSON object, of which one pass notes where the few keys
//! stand that tell forge and event apart. Their values are read only when they are needed, so a push of 25 kB costs
//! one scan, and a field that the verdict does not need cannot fail it.

use serde::de::Deserialize;
use serde_json::value::RawValue;

use super::PayloadError;
use crate::json::Object;

/// The top level of a payload: where each key stands whose value or presence somebody asks for.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Shape<'a> {
    #[serde(borrow)]
    pub action: Option<&'a RawValue>,
    #[serde(borrow)]
    pub number: Option<&'a RawValue>,
    #[serde(borrow)]
    pub pull_request: Option<&'a RawValue>,
    #[serde(borrow)]
    pub repository: Option<&'a RawValue>,
    #[serde(borrow)]
    pub sender: Option<&'a RawValue>,
    #[serde(borrow)]
    pub review: Option<&'a RawValue>,
    #[serde(borrow)]
    pub comment: Option<&'a RawValue>,
    #[serde(borrow)]
    pub thread: Option<&'a RawValue>,
    #[serde(borrow)]
    pub zen: Option<&'a RawValue>,
    #[serde(borrow)]
    pub hook_id: Option<&'a RawValue>,
    // Keys of other forges.
    #[serde(borrow)]
    pub object_kind: Option<&'a RawValue>,
    #[serde(borrow)]
    pub event_name: Option<&'a RawValue>,
    #[serde(borrow, rename = "eventKey")]
    pub event_key: Option<&'a RawValue>,
    #[serde(borrow, rename = "pullRequest")]
    pub camel_pull_request: Option<&'a RawValue>,
    #[serde(borrow)]
    pub pullrequest: Option<&'a RawValue>,
    #[serde(borrow)]
    pub actor: Option<&'a RawValue>,
    #[serde(borrow)]
    pub push: Option<&'a RawValue>,
}

/// Reads the top level of a payload.
pub(super) fn top_level(text: &str) -> Result<Shape<'_>, PayloadError> {
    object(text, "")
}

/// Reads `text` as a JSON object at `path`. The path inside it is looked for only when there is an error to show.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a str, path: &str) -> Result<T, PayloadError> {
    let error = match serde_json::from_str::<Object<T>>(text) {
        Ok(Object(value)) => return Ok(value),
        Err(error) => error,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    Err(match serde_path_to_error::deserialize::<_, Object<T>>(&mut json) {
        Err(located) => PayloadError::from_serde(&located, path),
        // The object is fine, so what stands behind it is not.
        Ok(_) => PayloadError::Syntax(error.to_string()),
    })
}

/// Whether the value is a JSON string.
pub(super) fn is_string(value: Option<&RawValue>) -> bool {
    value.is_some_and(|v| v.get().starts_with('"'))
}

/// Whether the value is a JSON object.
pub(super) fn is_object(value: Option<&RawValue>) -> bool {
    value.is_some_and(|v| v.get().starts_with('{'))
}

/// The string at `path`; `None` when it is absent or null.
pub(super) fn string(value: Option<&RawValue>, path: &str) -> Result<Option<String>, PayloadError> {
    let Some(value) = value else { return Ok(None) };
    match serde_json::from_str(value.get()) {
        Ok(text) => Ok(Some(text)),
        Err(_) if is_string(Some(value)) => Err(PayloadError::field(path, "is a string with a wrong escape")),
        Err(_) => Err(PayloadError::field(path, "is not a string")),
    }
}
