//! The known word most like one that is not known.

/// The most similar of the known words; `None` when there is none.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(&word.to_lowercase(), known);
    known.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// From serde's "unknown field `x`, expected one of `a`, `b`": the unknown key and the known one most like it.
pub(crate) fn nearest_key(message: &str) -> Option<(&str, &str)> {
    let message = message.strip_prefix("unknown field `")?;
    let (unknown, known) = message.split_once("`, expected ")?;
    let known = known.split('`').skip(1).step_by(2);
    Some((unknown, nearest(unknown, known)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_taken_from_what_serde_expects() {
        for (message, expected) in [
            ("unknown field `hots`, expected one of `host`, `ca_file`, `plain_http`", Some(("hots", "host"))),
            ("unknown field `JOBS`, expected one of `jobs`, `timeout`", Some(("JOBS", "jobs"))),
            ("unknown field `a`b`, expected `images`", Some(("a`b", "images"))),
            ("missing field `host`", None),
        ] {
            assert_eq!(nearest_key(message), expected, "{message}");
        }
    }
}
