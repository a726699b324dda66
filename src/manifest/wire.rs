//! images.json as it is written.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::{ManifestError, from_serde};
use crate::json::Object;

/// `images.json`, at the root of a commit.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[cfg_attr(test, schemars(with = "Vec<Image>", length(min = 1)))]
    images: Vec<Object<Image>>,
}

/// One entry of the list.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Image {
    pub service_name: String,
    pub version: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub context: Option<String>,
    pub dockerfile: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<BTreeMap<String, ArgSchema>>"))]
    pub args: Option<Args>,
    pub target: Option<String>,
    pub platform: Option<String>,
    pub tags: Option<Vec<String>>,
}

/// A build argument, for the schema.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum ArgSchema {
    Text(String),
    Number(i64),
    Flag(bool),
}

/// Build arguments. A map that refuses a name that stands there twice, as serde's derive does for fields.
#[derive(Default)]
pub(super) struct Args(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Args {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ArgsVisitor;
        impl<'de> Visitor<'de> for ArgsVisitor {
            type Value = Args;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of build arguments")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Args, A::Error> {
                let mut args = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let ArgValue(value) = map.next_value()?;
                    if args.insert(name.clone(), value).is_some() {
                        return Err(de::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                }
                Ok(Args(args))
            }
        }
        deserializer.deserialize_map(ArgsVisitor)
    }
}

/// An argument's value: a string, or a whole number or a truth value as JSON writes it. A fraction is refused, because
/// `1.10` would become `1.1`.
struct ArgValue(String);

impl<'de> Deserialize<'de> for ArgValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl Visitor<'_> for ValueVisitor {
            type Value = ArgValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string (or a whole number, true or false)")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<ArgValue, E> {
                if value.contains('\0') {
                    return Err(E::custom("a NUL cannot be part of an argument"));
                }
                Ok(ArgValue(value.to_owned()))
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<ArgValue, E> {
                Ok(ArgValue(value.to_string()))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ArgValue, E> {
                Ok(ArgValue(value.to_string()))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ArgValue, E> {
                Ok(ArgValue(value.to_string()))
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Reads the list of images.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Image>, ManifestError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes)
        .map_err(|e| ManifestError::whole(format!("is not UTF-8: byte {} is wrong", e.valid_up_to())))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(file): Object<File> =
        serde_path_to_error::deserialize(&mut json).map_err(|e| from_serde(&e))?;
    json.end().map_err(|e| ManifestError::whole(format!("goes on after its end: {e}")))?;
    Ok(file.images.into_iter().map(|Object(image)| image).collect())
}
