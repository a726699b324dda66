//! JSON read more strictly than serde does by default, and the position of a value in a text.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Accepts only a JSON object. Serde's derive also accepts an array of the fields in order.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// The parts of a JSON path like `images[1].args.A`.
pub(crate) fn parts(path: &str) -> impl Iterator<Item = Part<'_>> {
    path.split(['.', '[']).map(|part| match part.strip_suffix(']').map(str::parse) {
        Some(Ok(index)) => Part::Index(index),
        Some(Err(_)) | None => Part::Key(part),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Key(&'a str),
    Index(usize),
}

/// Where a path leads to, as an offset: to the key of an object, to an element of a list, or to the innermost of those on
/// the way that exists. `None` for text that is not JSON.
pub(crate) fn offset_of(text: &str, path: &str) -> Option<usize> {
    let mut value: &RawValue = serde_json::from_str(text).ok()?;
    let offset = |value: &RawValue| value.get().as_ptr() as usize - text.as_ptr() as usize;
    let mut found = offset(value);
    for part in parts(path) {
        let next = match part {
            Part::Index(index) => serde_json::from_str::<Vec<&RawValue>>(value.get())
                .ok()
                .and_then(|list| list.get(index).copied()),
            Part::Key(key) => serde_json::from_str::<BTreeMap<String, &RawValue>>(value.get())
                .ok()
                .and_then(|object| object.get(key).copied()),
        };
        let Some(next) = next else { break };
        let before = text.get(offset(value)..offset(next)).unwrap_or_default();
        let key = match part {
            Part::Key(key) => serde_json::to_string(key).ok().and_then(|key| before.rfind(&key)),
            Part::Index(_) => None,
        };
        found = key.map_or(offset(next), |key| offset(value) + key);
        value = next;
    }
    Some(found)
}

/// The line and the column, from 1, of an offset; columns are characters.
pub(crate) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_a_line_and_a_column() {
        let text =
            "{\n \"images\": [\n  {\"service_name\": \"a\"},\n  {\"ü\": 1, \"tags\": [\"x\",\n\"y\"]}\n]}";
        for (path, expected) in [
            ("images", (2, 2)),
            ("images[0]", (3, 3)),
            ("images[0].service_name", (3, 4)),
            ("images[0].version", (3, 3)),
            ("images[1].tags", (4, 12)),
            ("images[1].tags[1]", (5, 1)),
            ("images[7].tags", (2, 2)),
        ] {
            let offset = offset_of(text, path).unwrap();
            assert_eq!(line_and_column(text, offset), expected, "{path}");
        }
        assert_eq!(offset_of("{", "images"), None);
        assert_eq!(line_and_column("a", 9), (1, 2));
    }
}
