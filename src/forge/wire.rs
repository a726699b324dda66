//! What the forges' payloads have in common on the wire: a JSON object, of which one pass notes where the few keys
//! stand that tell forge and event apart and say what landed. Values are read only when they are needed, so a delivery
//! of 25 kB costs one scan, and a field that the verdict does not need cannot fail it by being of another type.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::PayloadError;
use crate::json::Object;

/// A value that nobody has read yet.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// The top level of a payload: each key whose value or presence somebody asks for.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Shape<'a> {
    #[serde(borrow)]
    pub action: Raw<'a>,
    #[serde(borrow)]
    pub number: Raw<'a>,
    #[serde(borrow)]
    pub pull_request: Nested<PullRequest<'a>>,
    #[serde(borrow)]
    pub repository: Nested<Repository<'a>>,
    #[serde(borrow)]
    pub sender: Nested<Account<'a>>,
    #[serde(borrow)]
    pub review: Raw<'a>,
    #[serde(borrow)]
    pub comment: Raw<'a>,
    #[serde(borrow)]
    pub thread: Raw<'a>,
    #[serde(borrow)]
    pub zen: Raw<'a>,
    #[serde(borrow)]
    pub hook_id: Raw<'a>,
    // Keys of swanci's own documents.
    #[serde(borrow)]
    pub schema: Raw<'a>,
    #[serde(borrow)]
    pub decision: Raw<'a>,
    #[serde(borrow)]
    pub outcome: Raw<'a>,
    #[serde(borrow)]
    pub images: Raw<'a>,
    // Keys of other forges.
    #[serde(borrow)]
    pub hook_name: Raw<'a>,
    #[serde(borrow, rename = "publisherId")]
    pub publisher_id: Raw<'a>,
    #[serde(borrow, rename = "eventType")]
    pub event_type: Raw<'a>,
    #[serde(borrow)]
    pub resource: Raw<'a>,
    #[serde(borrow, rename = "eventCreatedOn")]
    pub event_created_on: Raw<'a>,
    #[serde(borrow, rename = "patchSet")]
    pub patch_set: Raw<'a>,
    #[serde(borrow, rename = "refUpdate")]
    pub ref_update: Raw<'a>,
    #[serde(borrow, rename = "TopicArn")]
    pub topic_arn: Raw<'a>,
    #[serde(borrow, rename = "detail-type")]
    pub detail_type: Raw<'a>,
    #[serde(borrow, rename = "Records")]
    pub records: Raw<'a>,
    #[serde(borrow)]
    pub trigger: Raw<'a>,
    #[serde(borrow)]
    pub repo: Raw<'a>,
    #[serde(borrow)]
    pub pull_req: Raw<'a>,
    #[serde(borrow)]
    pub object_kind: Raw<'a>,
    #[serde(borrow)]
    pub event_name: Raw<'a>,
    #[serde(borrow, rename = "eventKey")]
    pub event_key: Raw<'a>,
    #[serde(borrow, rename = "pullRequest")]
    pub camel_pull_request: Raw<'a>,
    #[serde(borrow)]
    pub pullrequest: Raw<'a>,
    #[serde(borrow)]
    pub actor: Nested<Account<'a>>,
    #[serde(borrow)]
    pub push: Nested<Push<'a>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Repository<'a> {
    #[serde(borrow)]
    pub full_name: Raw<'a>,
    #[serde(borrow)]
    pub clone_url: Raw<'a>,
    #[serde(borrow)]
    pub default_branch: Raw<'a>,
    #[serde(borrow)]
    pub path_with_namespace: Raw<'a>,
    #[serde(borrow)]
    pub owner: Nested<Account<'a>>,
}

/// A person, an organization or a bot. GitHub's have a `login`; the other keys are those of other forges.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Account<'a> {
    #[serde(borrow)]
    pub login: Raw<'a>,
    #[serde(borrow)]
    pub username: Raw<'a>,
    #[serde(borrow)]
    pub full_name: Raw<'a>,
    #[serde(borrow)]
    pub links: Raw<'a>,
    #[serde(borrow)]
    pub uuid: Raw<'a>,
    #[serde(borrow)]
    pub display_name: Raw<'a>,
    #[serde(borrow, rename = "displayName")]
    pub camel_display_name: Raw<'a>,
    #[serde(borrow)]
    pub user_name: Raw<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct PullRequest<'a> {
    #[serde(borrow)]
    pub number: Raw<'a>,
    #[serde(borrow)]
    pub title: Raw<'a>,
    #[serde(borrow)]
    pub html_url: Raw<'a>,
    #[serde(borrow)]
    pub user: Nested<Account<'a>>,
    #[serde(borrow)]
    pub state: Raw<'a>,
    #[serde(borrow)]
    pub merged: Raw<'a>,
    #[serde(borrow)]
    pub merge_commit_sha: Raw<'a>,
    #[serde(borrow)]
    pub base: Nested<Side<'a>>,
    #[serde(borrow)]
    pub head: Nested<Side<'a>>,
}

/// One side of a pull request.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Side<'a> {
    #[serde(borrow, rename = "ref")]
    pub branch: Raw<'a>,
    #[serde(borrow)]
    pub sha: Raw<'a>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Push<'a> {
    #[serde(borrow)]
    pub changes: Raw<'a>,
}

/// A place for an object, and what stands there. What no forge writes and no reader agrees on (a key of it twice, half
/// a surrogate or a number beyond every range in its place) makes the payload malformed.
#[derive(Debug, Default)]
pub(super) enum Nested<T> {
    /// The key is not there, or `null`.
    #[default]
    Absent,
    Object(T),
    /// Another value.
    Other,
}

impl<T> Nested<T> {
    /// Whether there is nothing.
    pub(super) fn is_absent(&self) -> bool {
        match self {
            Nested::Absent => true,
            Nested::Object(_) | Nested::Other => false,
        }
    }

    /// The object, if there is one.
    pub(super) fn object(&self) -> Option<&T> {
        match self {
            Nested::Object(object) => Some(object),
            Nested::Absent | Nested::Other => None,
        }
    }

    /// The object at `path`; `None` when it is absent or null.
    pub(super) fn needed_as_object(&self, path: &str) -> Result<Option<&T>, PayloadError> {
        match self {
            Nested::Object(object) => Ok(Some(object)),
            Nested::Absent => Ok(None),
            Nested::Other => Err(PayloadError::field(path, "is not an object")),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Nested<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NestedVisitor(PhantomData))
    }
}

struct NestedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NestedVisitor<T> {
    type Value = Nested<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Nested::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Nested::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Nested::Absent)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Nested::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Nested::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Nested::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Nested::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Nested::Other)
    }
}

/// Reads the top level of a payload. The path inside it is looked for only when there is an error to show.
pub(super) fn top_level(text: &str) -> Result<Shape<'_>, PayloadError> {
    let error = match serde_json::from_str::<Object<Shape<'_>>>(text) {
        Ok(Object(shape)) => return Ok(shape),
        Err(error) => error,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    Err(match serde_path_to_error::deserialize::<_, Object<Shape<'_>>>(&mut json) {
        Err(located) => PayloadError::from_serde(&located),
        // The object is fine, so what stands behind it is not.
        Ok(_) => PayloadError::Syntax(error.to_string()),
    })
}

/// Whether the value is a JSON string.
pub(super) fn is_string(value: Raw<'_>) -> bool {
    value.is_some_and(|v| v.get().starts_with('"'))
}

/// Whether the value is a JSON object.
pub(super) fn is_object(value: Raw<'_>) -> bool {
    value.is_some_and(|v| v.get().starts_with('{'))
}

/// The string at `path`; `None` when it is absent or null.
pub(super) fn string(value: Raw<'_>, path: &str) -> Result<Option<String>, PayloadError> {
    match value {
        Some(raw) if is_string(value) => serde_json::from_str(raw.get())
            .map(Some)
            .map_err(|_| PayloadError::field(path, "is a string with a wrong escape")),
        _ => read(value, path, "a string"),
    }
}

/// The value at `path`, which has to be `what`; `None` when it is absent or null.
pub(super) fn read<T: DeserializeOwned>(
    value: Raw<'_>,
    path: &str,
    what: &str,
) -> Result<Option<T>, PayloadError> {
    let Some(raw) = value else { return Ok(None) };
    serde_json::from_str(raw.get()).map_err(|_| PayloadError::field(path, format!("is not {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_place_of_an_object_any_value_is_taken_until_it_is_needed() {
        for other in ["true", "-1", "1", "1.5", "\"x\"", "[1,{\"a\":[]}]"] {
            let text = format!("{{\"repository\":{other},\"action\":\"closed\"}}");
            let shape = top_level(&text).unwrap();
            assert!(shape.repository.object().is_none() && !shape.repository.is_absent(), "{other}");
            assert!(shape.repository.needed_as_object("repository").is_err(), "{other}");
            assert_eq!(string(shape.action, "action"), Ok(Some("closed".to_owned())), "{other}");
        }
        for nothing in ["{\"repository\":null}", "{}"] {
            let shape = top_level(nothing).unwrap();
            assert!(matches!(shape.repository.needed_as_object("repository"), Ok(None)), "{nothing}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_path() {
        for (text, path) in [
            (r#"{"repository":{"full_name":1,"full_name":2}}"#, Some("repository")),
            (r#"{"pull_request":{"base":{"ref":1,"x":tru}}}"#, Some("pull_request.base.x")),
            (r#"{"action":1,"action":2}"#, None),
            ("[]", None),
            ("{} x", None),
        ] {
            assert_eq!(top_level(text).unwrap_err().path(), path, "{text}");
        }
    }
}
