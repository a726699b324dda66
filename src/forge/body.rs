//! Extracts the JSON text from the body's bytes: UTF-8, byte order mark, form encoding.

use std::borrow::Cow;

use super::PayloadError;

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

const BOM: &[u8] = b"\xef\xbb\xbf";

pub(super) fn json_text(body: &[u8], encoding: Encoding) -> Result<Cow<'_, str>, PayloadError> {
    let body = body.strip_prefix(BOM).unwrap_or(body);
    let form = match encoding {
        Encoding::Json => false,
        Encoding::Form => true,
        Encoding::Detect => body.starts_with(b"payload="),
    };
    let text = if form { form_payload(body)? } else { Cow::Borrowed(utf8(body)?) };
    if text.trim_ascii().is_empty() {
        return Err(PayloadError::Empty);
    }
    Ok(text)
}

/// The bytes that Gitea, Forgejo and Gogs sign: a JSON body unchanged, or the JSON in a form.
pub(super) fn signed_json(body: &[u8], encoding: Encoding) -> Option<Cow<'_, [u8]>> {
    let is_form = encoding == Encoding::Form || encoding == Encoding::Detect && body.starts_with(b"payload=");
    if !is_form {
        return Some(Cow::Borrowed(body));
    }
    form_payload(body).ok().map(|text| Cow::Owned(text.into_owned().into_bytes()))
}

fn utf8(bytes: &[u8]) -> Result<&str, PayloadError> {
    std::str::from_utf8(bytes).map_err(|e| PayloadError::NotUtf8 { offset: e.valid_up_to() })
}

/// The one field `payload` of a form (WHATWG URL standard, `application/x-www-form-urlencoded` parsing).
fn form_payload(body: &[u8]) -> Result<Cow<'_, str>, PayloadError> {
    // An editor ends a saved file with a line break; a form never contains a raw one.
    let body = body.trim_ascii();
    if body.is_empty() {
        return Err(PayloadError::Empty);
    }
    utf8(body)?;
    let mut payload = None;
    for (name, value) in form_urlencoded::parse(body) {
        if name == "payload" && payload.replace(value).is_some() {
            return Err(PayloadError::Form("has the field `payload` twice"));
        }
    }
    let payload = payload.ok_or(PayloadError::Form("has no field `payload`"))?;
    Ok(match payload.strip_prefix('\u{feff}') {
        Some(rest) => Cow::Owned(rest.to_owned()),
        None => payload,
    })
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
            assert_eq!(json_text(body, encoding).as_deref(), Ok("{\"a\":1}"), "{body:?}");
        }
        assert_eq!(json_text(b"payload=a+b%2B", Encoding::Form).as_deref(), Ok("a b+"));
    }

    #[test]
    fn a_body_without_json_text_is_refused() {
        for (body, encoding, expected) in [
            (&b""[..], Encoding::Detect, PayloadError::Empty),
            (b" \n\t", Encoding::Json, PayloadError::Empty),
            (b"\xef\xbb\xbf", Encoding::Json, PayloadError::Empty),
            (b"", Encoding::Form, PayloadError::Empty),
            (b"payload=", Encoding::Form, PayloadError::Empty),
            (b"{\"a\":\"\xff\"}", Encoding::Json, PayloadError::NotUtf8 { offset: 6 }),
            (b"{}", Encoding::Form, PayloadError::Form("has no field `payload`")),
            (
                b"payload=%7B%7D&payload=%7B%7D",
                Encoding::Detect,
                PayloadError::Form("has the field `payload` twice"),
            ),
        ] {
            assert_eq!(json_text(body, encoding), Err(expected), "{body:?}");
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
