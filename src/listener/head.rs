//! The head of one HTTP/1.x request: parsed by `httparse`, then checked against the framing rules of RFC 9112, section 6:
//! two readers that disagree on framing make request smuggling possible.

use super::answer::Refusal;

/// The most headers of a request, regardless of the limits.
pub(super) const MAX_HEADERS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// 0 without `Content-Length`. Saturates: a number that fits no integer exceeds every limit.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A complete head, as the client sent it.
#[derive(Debug)]
pub(super) struct ParsedHead<'a> {
    pub(super) method: &'a str,
    /// Without query and authority.
    pub(super) path: &'a str,
    headers: Vec<(&'a str, &'a [u8])>,
    pub(super) framing: Framing,
    pub(super) expects_continue: bool,
    /// Bytes of the head, with its empty line.
    pub(super) length: usize,
}

/// The parts of a head that the routes use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Unchanged, because methods are case-sensitive.
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of this header; `name` is in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Parses the head at the start of `data`; `None` while it is incomplete.
pub(super) fn parse(data: &[u8], max_headers: usize) -> Result<Option<ParsedHead<'_>>, Refusal> {
    let mut buffer = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let buffer = buffer.get_mut(..max_headers).ok_or(Refusal::HeadTooLarge)?;
    let mut request = httparse::Request::new(buffer);
    let httparse::Status::Complete(length) = request.parse(data).map_err(refusal)? else { return Ok(None) };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::BadRequest);
    };
    let headers: Vec<_> = request.headers.iter().map(|header| (header.name, header.value)).collect();
    let one_one = version == 1;
    let named = |name: &'static str| headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name));
    let hosts = named("host").count();
    if hosts > 1 || (one_one && hosts == 0) {
        // RFC 9112 section 3.2.
        return Err(Refusal::BadRequest);
    }
    let expects_continue = match named("expect").next() {
        // RFC 9110 section 10.1.1: not from an HTTP/1.0 client.
        Some((_, value)) if value.eq_ignore_ascii_case(b"100-continue") => one_one,
        Some(_) => return Err(Refusal::Expectation),
        None => false,
    };
    let framing = framing(&headers, one_one)?;
    Ok(Some(ParsedHead { method, path: path_of(target), framing, headers, expects_continue, length }))
}

fn refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HeadTooLarge,
        httparse::Error::Version => Refusal::Version,
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token => Refusal::BadRequest,
    }
}

/// The path of an origin-form or absolute-form target (RFC 9112 section 3.2), without its query.
fn path_of(target: &str) -> &str {
    let path = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => target,
    };
    path.split(['?', '#']).next().unwrap_or(path)
}

fn framing(headers: &[(&str, &[u8])], one_one: bool) -> Result<Framing, Refusal> {
    let mut framing = None;
    for (name, value) in headers {
        let this = if name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(value).ok().filter(|_| digits).ok_or(Refusal::BadRequest)?;
            Framing::Length(text.parse().unwrap_or(u64::MAX))
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !one_one || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::BadRequest);
            }
            Framing::Chunked
        } else {
            continue;
        };
        // Exactly one of these: duplicates are refused even if they agree.
        if framing.replace(this).is_some() {
            return Err(Refusal::BadRequest);
        }
    }
    Ok(framing.unwrap_or(Framing::Length(0)))
}

impl ParsedHead<'_> {
    /// The head with only the headers in `read`, each of which must be UTF-8.
    pub(super) fn keep(&self, read: &[&str]) -> Result<Head, Refusal> {
        let mut headers = Vec::with_capacity(read.len());
        for name in read {
            let Some((_, value)) = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)) else {
                continue;
            };
            let text = std::str::from_utf8(value).ok();
            if text.is_none() && *name == "user-agent" {
                continue;
            }
            headers.push(((*name).to_owned(), text.ok_or(Refusal::BadRequest)?.to_owned()));
        }
        Ok(Head { method: self.method.to_owned(), path: self.path.to_owned(), headers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(head: &str) -> Result<Framing, Refusal> {
        parse(head.as_bytes(), 100).map(|head| head.unwrap().framing)
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let post = |rest: &str| framing(&format!("POST /webhook HTTP/1.1\r\nHost: a\r\n{rest}\r\n"));
        assert_eq!(post("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(post("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(post(""), Ok(Framing::Length(0)));
        assert_eq!(post("Content-Length: 99999999999999999999\r\n"), Ok(Framing::Length(u64::MAX)));
        for bad in [
            "Content-Length: -1\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\ncontent-length: 6\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length : 5\r\n",
            "X: a\r\n Content-Length: 5\r\n",
            "Host: b\r\n",
        ] {
            assert_eq!(post(bad), Err(Refusal::BadRequest), "{bad:?}");
        }
        assert_eq!(
            framing("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(Refusal::BadRequest)
        );
        assert_eq!(framing("GET / HTTP/1.1\r\n\r\n"), Err(Refusal::BadRequest));
        assert_eq!(framing("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Err(Refusal::Version));
        assert_eq!(post("Expect: tea\r\n"), Err(Refusal::Expectation));
        assert_eq!(post(&"X: y\r\n".repeat(100)), Err(Refusal::HeadTooLarge));
        assert_eq!(post(&"X: y\r\n".repeat(99)), Ok(Framing::Length(0)));
    }

    #[test]
    fn only_known_headers_and_the_bare_path_are_kept() {
        const READ: [&str; 1] = ["x-github-event"];
        let keep = |data: &[u8]| parse(data, 100).unwrap().unwrap().keep(&READ);
        let head = keep(
            b"POST http://h/webhook?x=1 HTTP/1.1\r\nHost: h\r\nTE: chunked\r\nX-GitHub-Event: ping\r\n\r\n",
        )
        .unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str()), ("POST", "/webhook"));
        assert_eq!(head.headers, [("x-github-event".to_owned(), "ping".to_owned())]);
        let utf8 = b"POST /w HTTP/1.1\r\nHost: h\r\nX-GitHub-Event: p\xc3\xbc\r\n\r\n";
        assert_eq!(keep(utf8).unwrap().get("x-github-event"), Some("p\u{fc}"));
        let latin1 = b"POST /w HTTP/1.1\r\nHost: h\r\nX-GitHub-Event: p\xfc\r\n\r\n";
        assert_eq!(keep(latin1), Err(Refusal::BadRequest));
        let other = b"POST /w HTTP/1.1\r\nHost: h\r\nCf-Ipcity: K\xc3\xb6ln\r\n\r\n";
        assert_eq!(keep(other).unwrap().headers, []);
    }
}
