//! Makes text from outside safe for a terminal: [`clean`] for text of several lines, [`escaped`] for a value within a
//! sentence, [`json`] for a document.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Control characters (C0, DEL, C1), line and paragraph separators, bidirectional controls, and characters without width,
/// except the joiners U+200C and U+200D, which several scripts and most emoji need.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Removes escape sequences, and replaces other dangerous characters except line breaks and tabs.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| is_dangerous(c) && !matches!(c, '\n' | '\t')) {
        return Cow::Borrowed(text);
    }
    let replaced = |c| if is_dangerous(c) && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c };
    let text = console::strip_ansi_codes(text);
    Cow::Owned(text.replace("\r\n", "\n").chars().map(replaced).collect())
}

/// Puts the text on one line with escapes for dangerous characters. Quotes and backslashes do not change, because the
/// result is not parsed again.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_dangerous(c) { out.extend(c.escape_debug()) } else { out.push(c) }
    }
    out
}

/// Like [`escaped`], cut after `limit` characters.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => escaped(&text[..end]) + "…",
        None => escaped(text),
    }
}

/// Replaces dangerous characters in the strings of a JSON text by `\u` escapes, which does not change the document. White
/// space between values stays.
pub(crate) fn json(text: String) -> String {
    let is_space = |c| matches!(c, '\n' | '\r' | '\t');
    if !text.contains(|c| is_dangerous(c) && !is_space(c)) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_dangerous(c) && !is_space(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terminal_controls_are_removed() {
        assert_eq!(escaped("a\u{1b}[31m\r\n\u{9b}\u{202e}b"), "a\\u{1b}[31m\\r\\n\\u{9b}\\u{202e}b");
        assert_eq!(escaped("it's \"ü\" \\ 🦢"), "it's \"ü\" \\ 🦢");
        assert_eq!(shortened("äbcdef", 3), "äbc…");
        assert_eq!(shortened("äbc", 3), "äbc");
        assert_eq!(clean("\u{1b}[31mred\u{1b}[0m\u{7}x\ny\tz\r\n"), "red\u{fffd}x\ny\tz\n");
    }

    #[test]
    fn dangerous_characters_are_replaced_and_scripts_are_not() {
        let dangerous = "\0\u{7}\u{8}\r\u{1b}\u{7f}\u{80}\u{85}\u{9b}\u{9f}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\
                         \u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{feff}\u{e0041}";
        for c in dangerous.chars() {
            let text = format!("a{c}b");
            assert!(!clean(&text).contains(c), "{c:?} in a text");
            assert!(!escaped(&text).contains(c), "{c:?} in a sentence");
            let document = json(serde_json::to_string(&text).unwrap());
            assert!(!document.contains(c), "{c:?} in a document");
            assert_eq!(serde_json::from_str::<String>(&document).unwrap(), text);
        }
        let harmless = "日本語 हिन्दी\u{200d} العربية e\u{301} 👩\u{200d}🚀 – “x”";
        assert_eq!(clean(harmless), harmless);
        assert_eq!(escaped(harmless), harmless);
    }

    proptest! {
        #[test]
        fn escapes_do_not_change_a_document(text in any::<String>()) {
            let document = json(serde_json::to_string(&text).unwrap());
            prop_assert!(!document.chars().any(is_dangerous));
            prop_assert_eq!(serde_json::from_str::<String>(&document).unwrap(), text);
        }

        #[test]
        fn clean_text_has_no_dangerous_characters_and_does_not_change_again(text in "(\\PC|\u{1b}|\\[|[0-9;]|m|\u{9b}|\r|\n){0,30}") {
            let cleaned = clean(&text).into_owned();
            prop_assert!(!cleaned.chars().any(|c| is_dangerous(c) && c != '\n' && c != '\t'), "{cleaned:?}");
            prop_assert_eq!(clean(&cleaned), cleaned.as_str());
        }
    }
}
