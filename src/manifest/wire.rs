//! The JSON of images.json.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{NO_IMAGES, from_serde};
use crate::json::Object;
use crate::model::Mistake;

/// `images.json`, at the root of a commit.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct File<'a> {
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Vec<Image>", length(min = 1)))]
    images: Vec<&'a RawValue>,
}

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
    #[cfg_attr(test, schemars(with = "Option<BTreeMap<String, ArgValue>>"))]
    pub args: Option<Args>,
    pub target: Option<String>,
    pub platform: Option<String>,
    pub tags: Option<Vec<String>>,
}

/// Build arguments. Unlike a map, refuses a duplicate name, as serde's derive does for fields.
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
                    let value = map.next_value::<ArgValue>()?.to_string();
                    if value.contains('\0') {
                        return Err(de::Error::custom("an argument cannot contain a NUL"));
                    }
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

/// A build argument. A fraction is refused, because `1.10` would become `1.1`.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a string (or a whole number, true or false)")]
enum ArgValue {
    Text(String),
    Number(i64),
    #[cfg_attr(test, schemars(skip))]
    Large(u64),
    Flag(bool),
}

impl fmt::Display for ArgValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArgValue::Text(text) => f.write_str(text),
            ArgValue::Number(number) => number.fmt(f),
            ArgValue::Large(number) => number.fmt(f),
            ArgValue::Flag(flag) => flag.fmt(f),
        }
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, Mistake> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes)
        .map_err(|e| Mistake::new("", format!("is not UTF-8: byte {} is wrong", e.valid_up_to())))
}

/// The list, whose images are not read yet.
pub(super) fn images(text: &str) -> Result<Vec<&RawValue>, Mistake> {
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(file): Object<File<'_>> = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let error = from_serde(&e);
        let hint = if error.key.is_empty() { "; a list of images looks like {\"images\":[…]}" } else { "" };
        Mistake { problem: error.problem + hint, ..error }
    })?;
    json.end().map_err(|e| Mistake::new("", format!("has text after its end: {e}")))?;
    if file.images.is_empty() {
        return Err(Mistake::new("images", NO_IMAGES));
    }
    Ok(file.images)
}

pub(super) fn image(text: &str) -> Result<Image, Mistake> {
    let mut json = serde_json::Deserializer::from_str(text);
    let Object(image) = serde_path_to_error::deserialize(&mut json).map_err(|e| from_serde(&e))?;
    Ok(image)
}
