//! Text from outside, made safe for a terminal.

/// `text` with everything that could paint on a terminal (control characters, bidirectional overrides, line
/// breaks) written as an escape. Quotes and backslashes stay as they are: nothing here is read back.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

/// As [`escaped`], cut after `limit` characters: for a value of any length inside a sentence.
pub fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => escaped(&text[..end]) + "…",
        None => escaped(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_paints_gets_through() {
        assert_eq!(escaped("a\u{1b}[31m\r\n\u{9b}\u{202e}b"), "a\\u{1b}[31m\\r\\n\\u{9b}\\u{202e}b");
        assert_eq!(escaped("it's \"ü\" \\ 🦢"), "it's \"ü\" \\ 🦢");
        assert_eq!(shortened("äbcdef", 3), "äbc…");
        assert_eq!(shortened("äbc", 3), "äbc");
    }
}
