//! A JSON object of a payload. One pass records the raw value of each key; values are parsed on access, with errors
//! that contain the JSON path. Unused values cannot fail a payload.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use jiff::Timestamp;
use serde::de::{DeserializeOwned, Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::invalid;
use crate::error::Failure;
use crate::escape::{escaped, shortened};
use crate::model::InvalidValue;

/// Longer than any forge's URLs.
const MAX_URL: usize = 2048;
/// More than in any forge's objects.
const MAX_KEYS: usize = 10_000;

/// An object and its JSON path; an absent or null object has no keys.
#[derive(Debug, Default)]
pub(super) struct JsonObject<'a> {
    path: String,
    fields: BTreeMap<String, &'a RawValue>,
}

impl<'a> JsonObject<'a> {
    fn parse(path: String, text: &'a str) -> serde_json::Result<JsonObject<'a>> {
        let mut json = serde_json::Deserializer::from_str(text);
        let object = json.deserialize_map(JsonObject { path, fields: BTreeMap::new() })?;
        json.end().map(|()| object)
    }

    /// Parses the top level of a payload.
    pub(super) fn top(text: &'a str) -> Result<JsonObject<'a>, Failure> {
        let error = match JsonObject::parse(String::new(), text) {
            Ok(object) => return Ok(object),
            Err(error) => escaped(&error.to_string()),
        };
        // Only now find the position of the error.
        let mut json = serde_json::Deserializer::from_str(text);
        let located =
            serde_path_to_error::deserialize::<_, serde_json::Map<String, serde_json::Value>>(&mut json);
        Err(match located.map_err(|located| located.path().to_string()) {
            Err(path) if !matches!(path.as_str(), "." | "?") => {
                invalid(&shortened(&path, 100), format!("is wrong: {error}"))
            }
            Ok(_) | Err(_) => Failure::bad_input(format!("the payload is not a JSON object: {error}")),
        })
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, unless it is null.
    fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.fields.get(key).copied().filter(|value| value.get() != "null")
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    pub(super) fn is_string(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|value| value.get().starts_with('"'))
    }

    pub(super) fn is_object(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|value| value.get().starts_with('{'))
    }

    pub(super) fn is_number(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|value| value.get().starts_with(|c: char| c.is_ascii_digit()))
    }

    /// The object at a key; empty if absent or null.
    pub(super) fn object(&self, key: &str) -> Result<JsonObject<'a>, Failure> {
        let path = self.path_of(key);
        let Some(value) = self.raw(key) else { return Ok(JsonObject { path, fields: BTreeMap::new() }) };
        if !self.is_object(key) {
            return Err(invalid(&path, "is not an object"));
        }
        JsonObject::parse(path, value.get())
            .map_err(|error| self.wrong(key, format!("is wrong: {}", shortened(&error.to_string(), 120))))
    }

    /// Like [`JsonObject::object`]; also empty if it cannot be parsed.
    pub(super) fn peek(&self, key: &str) -> JsonObject<'a> {
        self.object(key).unwrap_or_default()
    }

    /// The value of a key, which must be `what`; `None` if absent or null.
    pub(super) fn read<T: DeserializeOwned>(&self, key: &str, what: &str) -> Result<Option<T>, Failure> {
        let Some(value) = self.raw(key) else { return Ok(None) };
        let wrong = |_| self.wrong(key, format!("is not {what}"));
        serde_json::from_str(value.get()).map(Some).map_err(wrong)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Failure> {
        self.read(key, "a valid string")
    }

    /// The text of a key; `None` for another type.
    pub(super) fn peek_text(&self, key: &str) -> Option<String> {
        self.text(key).ok().flatten()
    }

    /// The text of a key, parsed; `None` if invalid.
    pub(super) fn peek_as<T: FromStr>(&self, key: &str) -> Option<T> {
        self.peek_text(key)?.parse().ok()
    }

    /// The number of a pull request, from 1.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        Ok(self.read::<NonZeroU64>(key, "the number of a pull request")?.map(NonZeroU64::get))
    }

    /// A number from 1, or a string of digits.
    pub(super) fn peek_number(&self, key: &str) -> Option<u64> {
        let number = self.number(key).ok().flatten();
        number.or_else(|| self.peek_as::<NonZeroU64>(key).map(NonZeroU64::get))
    }

    /// The text of a required key, parsed.
    pub(super) fn needed<T>(&self, key: &str) -> Result<T, Failure>
    where
        T: TryFrom<String, Error = InvalidValue>,
    {
        T::try_from(self.text(key)?.ok_or_else(|| self.missing(key))?)
            .map_err(|error| self.wrong(key, format!("is wrong: {error}")))
    }

    pub(super) fn missing(&self, key: &str) -> Failure {
        self.wrong(key, "is missing")
    }

    pub(super) fn wrong(&self, key: &str, problem: impl fmt::Display) -> Failure {
        invalid(&self.path_of(key), problem)
    }

    pub(super) fn url(&self, key: &str) -> Result<Option<String>, Failure> {
        match self.text(key)? {
            Some(text) if !is_url(&text) => {
                Err(self.wrong(key, format!("is not a URL: `{}`", shortened(&text, 80))))
            }
            url => Ok(url),
        }
    }

    pub(super) fn peek_url(&self, key: &str) -> Option<String> {
        self.url(key).ok().flatten()
    }

    /// A time: RFC 3339, also with `UTC` or `+0000` as its offset, or milliseconds since 1970.
    pub(super) fn peek_time(&self, key: &str) -> Option<Timestamp> {
        if self.is_number(key) {
            return Timestamp::from_millisecond(self.read(key, "").ok().flatten()?).ok();
        }
        let text = self.peek_text(key)?;
        text.replace(" UTC", "Z").parse().ok()
    }
}

/// Whether the text has a harmless syntax; `build` decides which URLs may be cloned.
pub(super) fn is_url(text: &str) -> bool {
    let is_harmless = !text.starts_with('-') && !text.chars().any(char::is_control);
    is_harmless && (1..=MAX_URL).contains(&text.len())
}

impl<'de> Visitor<'de> for JsonObject<'de> {
    type Value = JsonObject<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<JsonObject<'de>, A::Error> {
        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
            if self.fields.len() == MAX_KEYS {
                return Err(A::Error::custom(format!("more than {MAX_KEYS} keys")));
            }
            // Parsers disagree on which of two duplicates counts.
            match self.fields.entry(key) {
                Entry::Vacant(entry) => entry.insert(value),
                Entry::Occupied(entry) => {
                    let key = shortened(entry.key(), 40);
                    return Err(A::Error::custom(format!("duplicate field `{key}`")));
                }
            };
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_values_may_have_any_type() {
        for other in ["true", "-1", "1", "1.5", "\"x\"", "[1,{\"a\":[]}]", "{\"a\":1,\"a\":2}"] {
            let text = format!("{{\"repository\":{other},\"action\":\"closed\"}}");
            let top = JsonObject::top(&text).unwrap();
            assert!(top.peek("repository").fields.is_empty(), "{other}");
            let error = top.object("repository").unwrap_err().to_string();
            assert!(error.starts_with("the payload's `repository` is "), "{other}: {error}");
            assert_eq!(top.text("action").unwrap().as_deref(), Some("closed"), "{other}");
        }
        for nothing in ["{\"repository\":null}", "{}"] {
            let repository = JsonObject::top(nothing).unwrap().object("repository").unwrap();
            let missing = repository.missing("full_name").to_string();
            assert_eq!(missing, "the payload's `repository.full_name` is missing", "{nothing}");
        }
    }

    #[test]
    fn errors_contain_the_json_path() {
        for (text, start) in [
            (
                r#"{"pull_request":{"base":{"ref":1,"x":tru}}}"#,
                "the payload's `pull_request.base.x` is wrong: ",
            ),
            (r#"{"action":1,"action":2}"#, "the payload is not a JSON object: duplicate field `action`"),
            ("[]", "the payload is not a JSON object: "),
            ("{} x", "the payload is not a JSON object: "),
        ] {
            let error = JsonObject::top(text).unwrap_err().to_string();
            assert!(error.starts_with(start), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_read_in_each_forges_format() {
        for (json, expected) in [
            ("\"2026-11-26T12:42:20.70384965Z\"", "2026-11-26T12:42:20.70384965Z"),
            ("\"2023-12-05T19:28:16.861881+01:00\"", "2023-12-05T18:28:16.861881Z"),
            ("\"2018-07-05T19:33:14+0000\"", "2018-07-05T19:33:14Z"),
            ("\"2023-12-05 18:40:22 UTC\"", "2023-12-05T18:40:22Z"),
            ("1551433034286", "2019-03-01T09:37:14.286Z"),
        ] {
            let text = format!("{{\"at\":{json}}}");
            let time = JsonObject::top(&text).unwrap().peek_time("at");
            assert_eq!(time.map(|time| time.to_string()).as_deref(), Some(expected), "{json}");
        }
        for json in ["null", "\"\"", "\"soon\"", "[]", "99999999999999999999", "-1"] {
            let text = format!("{{\"at\":{json}}}");
            assert_eq!(JsonObject::top(&text).unwrap().peek_time("at"), None, "{json}");
        }
    }
}
