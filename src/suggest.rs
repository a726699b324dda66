//! Suggestions for misspelled words, and serde's messages in the terms of the file.

/// The lowest similarity of a suggestion.
const ALIKE: f64 = 0.75;

/// Jaro-Winkler; for short words, for which it is unreliable, also a distance of one edit.
fn likeness(word: &str, known: &str) -> f64 {
    let (word, known) = (word.to_lowercase(), known.to_lowercase());
    let is_typo = known.len() > 2 && strsim::osa_distance(&word, &known) <= 1;
    strsim::jaro_winkler(&word, &known).max(if is_typo { ALIKE } else { 0.0 })
}

/// The most similar known word, if any is similar.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known.into_iter().map(|known| (known, likeness(word, known)));
    let best = known.max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.filter(|(_, likeness)| *likeness >= ALIKE).map(|(known, _)| known)
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    UnknownKey {
        key: String,
        known: Vec<String>,
    },
    /// Anything else, as a clause.
    Other(String),
}

impl Wrong {
    /// The most similar known key, else all known keys.
    pub(crate) fn hint(&self) -> Option<String> {
        let Wrong::UnknownKey { key, known } = self else { return None };
        Some(match nearest(key, known.iter().map(String::as_str)) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("known here: {}", known.join(", ")),
        })
    }
}

/// A message of serde without the terms of its data model. `group` is the format's term for a map.
pub(crate) fn in_plain_words(message: &str, group: &str) -> Wrong {
    // serde_json reports the position of its parser, not that of the value.
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let listed = |prefix: &str| message.strip_prefix(prefix).and_then(|rest| rest.split_once("`, "));
    let unquoted = |prefix: &str| message.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('`'));
    let of_value =
        ["invalid type: ", "invalid value: "].iter().find_map(|prefix| message.strip_prefix(prefix));
    if let Some((key, known)) = listed("unknown field `") {
        return Wrong::UnknownKey { key: key.to_owned(), known: quoted(known) };
    }
    Wrong::Other(if let Some(key) = unquoted("missing field `") {
        format!("`{key}` is missing")
    } else if let Some(key) = unquoted("duplicate field `") {
        format!("the key `{key}` is given twice")
    } else if let Some((word, known)) = listed("unknown variant `") {
        format!("expected one of {}, found `{word}`", quoted(known).join(", "))
    } else if let Some((found, expected)) = of_value.and_then(|rest| rest.rsplit_once(", expected ")) {
        format!("expected {}, found {}", expectation(expected, group), finding(found, group))
    } else {
        message.to_owned()
    })
}

fn expectation<'a>(expected: &'a str, group: &'a str) -> &'a str {
    match expected {
        "a sequence" => "a list",
        "a map" => group,
        "a boolean" => "true or false",
        "path string" => "a path",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        _ if expected.starts_with("struct ") => group,
        _ => expected,
    }
}

fn finding(found: &str, group: &str) -> String {
    match found {
        "sequence" => "a list".to_owned(),
        "map" => group.to_owned(),
        "unit value" | "null" => "null".to_owned(),
        _ => {
            let kinds = ["integer ", "floating point ", "boolean ", "string "];
            let value = kinds.iter().find_map(|kind| found.strip_prefix(kind)).unwrap_or(found);
            value.trim_matches('`').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_similar_word_is_suggested() {
        for (word, expected) in [
            ("hots", Some("host")),
            ("PLAIN_HTTP", Some("plain_http")),
            ("cafile", Some("ca_file")),
            ("ohst", Some("host")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, ["host", "ca_file", "plain_http"]), expected, "{word}");
        }
    }

    #[test]
    fn a_message_of_serdes_is_said_in_the_words_of_the_file() {
        let key = |key: &str, known: &[&str]| Wrong::UnknownKey {
            key: key.to_owned(),
            known: known.iter().map(|known| (*known).to_owned()).collect(),
        };
        let other = |text: &str| Wrong::Other(text.to_owned());
        for (message, expected) in [
            (
                "unknown field `hots`, expected one of `host`, `ca_file` at line 1 column 3",
                key("hots", &["host", "ca_file"]),
            ),
            ("unknown field `a`b`, expected `images`", key("a`b", &["images"])),
            ("unknown field `x`, there are no fields", key("x", &[])),
            ("missing field `name`", other("`name` is missing")),
            ("duplicate field `type` at line 2 column 7", other("the key `type` is given twice")),
            (
                "unknown variant `done`, expected `built` or `failed`",
                other("expected one of built, failed, found `done`"),
            ),
            (
                "invalid type: integer `1`, expected a string at line 1 column 9",
                other("expected a string, found 1"),
            ),
            (
                "invalid type: floating point `1.5`, expected usize",
                other("expected a whole number, found 1.5"),
            ),
            ("invalid type: string \"two\", expected i64", other("expected a whole number, found \"two\"")),
            ("invalid value: integer `-1`, expected u16", other("expected a whole number, found -1")),
            (
                "invalid type: string \"a, expected b\", expected a boolean",
                other("expected true or false, found \"a, expected b\""),
            ),
            ("invalid type: map, expected a sequence", other("expected a list, found a table")),
            ("invalid type: sequence, expected struct RawServe", other("expected a table, found a list")),
            ("invalid type: null, expected path string", other("expected a path, found null")),
            ("invalid type: boolean `true`, expected a map", other("expected a table, found true")),
            ("EOF while parsing a value at line 1 column 0", other("EOF while parsing a value")),
        ] {
            assert_eq!(in_plain_words(message, "a table"), expected, "{message}");
        }
        assert_eq!(key("x", &["aaa", "bbb"]).hint().as_deref(), Some("known here: aaa, bbb"));
        assert_eq!(key("verison", &["version"]).hint().as_deref(), Some("did you mean `version`?"));
    }
}
