//! Extracts the JSON text from the body's bytes: UTF-8, byte order mark, form encoding.

use std::borrow::Cow;

use crate::error::Failure;

/// The encoding of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    Json,
    /// The other content type: a form with the JSON in its field `payload`.
    Form,
    /// Unknown: a body that starts with `payload=` is a form, because no JSON text starts so.
    #[default]
    Detect,
}

impl Encoding {
    /// The encoding for a `Content-Type` header; `None` for one that no forge sends.
    pub fn from_content_type(value: &str) -> Option<Encoding> {
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Some(Encoding::Json)
        } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Some(Encoding::Form)
        } else {
            None
        }
    }
}

/// The JSON of a body: the body itself, or the one field `payload` of a form (WHATWG URL standard). Gitea, Forgejo and
/// Gogs sign these bytes.
pub(super) fn json(body: &[u8], encoding: Encoding) -> Result<Cow<'_, [u8]>, Failure> {
    let is_form = match encoding {
        Encoding::Json => false,
        Encoding::Form => true,
        Encoding::Detect => body.starts_with(b"payload="),
    };
    if !is_form {
        return Ok(Cow::Borrowed(body));
    }
    // An editor ends a saved file with a line break; a form never contains a raw one.
    let form = text(body)?.trim_ascii();
    let mut fields = form_urlencoded::parse(form.as_bytes()).filter(|(name, _)| name == "payload");
    match (fields.next(), fields.next()) {
        (Some((_, payload)), None) => Ok(Cow::Owned(payload.into_owned().into_bytes())),
        (Some(_), Some(_)) => {
            Err(Failure::bad_input("the form-encoded payload has the field `payload` twice"))
        }
        (None, _) => Err(Failure::bad_input("the form-encoded payload has no field `payload`")),
    }
}

/// JSON is UTF-8 (RFC 8259, section 8.1); a byte order mark is ignored.
pub(super) fn text(json: &[u8]) -> Result<&str, Failure> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    let text = std::str::from_utf8(json).map_err(|error| {
        Failure::bad_input(format!("the payload is not UTF-8: byte {} is wrong", error.valid_up_to()))
    })?;
    if text.trim_ascii().is_empty() {
        return Err(Failure::bad_input("the payload is empty"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_unchanged_except_for_its_byte_order_mark() {
        for (body, encoding) in [
            (&b"{\"a\":1}"[..], Encoding::Json),
            (b"\xef\xbb\xbf{\"a\":1}", Encoding::Detect),
            (b"payload=%7B%22a%22%3A1%7D", Encoding::Detect),
            (b"payload=%7b%22a%22%3a1%7d\n", Encoding::Form),
            (b"x=1&payload=%EF%BB%BF%7B%22a%22:1%7D&y", Encoding::Form),
        ] {
            assert_eq!(text(&json(body, encoding).unwrap()).unwrap(), "{\"a\":1}", "{body:?}");
        }
        assert_eq!(*json(b"payload=a+b%2B", Encoding::Form).unwrap(), *b"a b+");
    }

    #[test]
    fn a_body_without_json_text_is_refused() {
        for (body, encoding, expected) in [
            (&b""[..], Encoding::Detect, "the payload is empty"),
            (b" \n\t", Encoding::Json, "the payload is empty"),
            (b"\xef\xbb\xbf", Encoding::Json, "the payload is empty"),
            (b"", Encoding::Form, "the payload is empty"),
            (b"payload=", Encoding::Form, "the payload is empty"),
            (b"{\"a\":\"\xff\"}", Encoding::Json, "the payload is not UTF-8: byte 6 is wrong"),
            (b"{}", Encoding::Form, "the form-encoded payload has no field `payload`"),
            (
                b"payload=%7B%7D&payload=%7B%7D",
                Encoding::Detect,
                "the form-encoded payload has the field `payload` twice",
            ),
        ] {
            let error = json(body, encoding).and_then(|json| text(&json).map(drop)).unwrap_err();
            assert_eq!(error.to_string(), expected, "{body:?}");
        }
    }

    #[test]
    fn only_the_two_content_types_of_forges_are_accepted() {
        for (value, expected) in [
            ("application/json", Some(Encoding::Json)),
            ("Application/JSON; charset=utf-8", Some(Encoding::Json)),
            ("application/x-www-form-urlencoded", Some(Encoding::Form)),
            ("application/x-www-form-urlencoded;charset=UTF-8", Some(Encoding::Form)),
            ("text/plain", None),
            ("application/jsonp", None),
            ("", None),
        ] {
            assert_eq!(Encoding::from_content_type(value), expected, "{value}");
        }
    }
}
