//! The head of one HTTP/1.x request: parsed by `httparse`, then held to the framing rules of RFC 9112 section 6, where
//! two readers that disagree are the door for request smuggling.

use super::answer::Refusal;
use super::service::{Head, Headers};

/// How the end of the body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; none without `Content-Length`. Saturates: a number that fits no integer is over every cap.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What the gate needs to know of a head.
#[derive(Debug)]
pub(crate) struct ParsedHead<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: ParsedHeaders<'a>,
    pub(crate) framing: Framing,
    /// HTTP/1.1, as opposed to 1.0.
    pub(crate) one_one: bool,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
}

#[derive(Debug)]
pub(crate) struct ParsedHeaders<'a>(Vec<(&'a str, &'a [u8])>);

impl Headers for ParsedHeaders<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok().filter(|value| value.is_ascii())
    }
}

/// How many bytes the head at the start of `data` takes, with its empty line; looks from `from` on.
pub(crate) fn head_end(data: &[u8], from: usize) -> Option<usize> {
    let from = from.min(data.len());
    // httparse takes a bare LF for a line end, as RFC 9112 section 2.2 allows; so this has to as well.
    data.get(from..)?.iter().enumerate().filter(|(_, byte)| **byte == b'\n').find_map(|(at, _)| {
        let at = from + at;
        let rest = data.get(at + 1..)?;
        match rest {
            [b'\n', ..] => Some(at + 2),
            [b'\r', b'\n', ..] => Some(at + 3),
            _ => None,
        }
    })
}

/// Whether these first bytes of a head can no longer become one.
pub(crate) fn hopeless(data: &[u8], max_headers: usize) -> Option<Refusal> {
    let mut room = [httparse::EMPTY_HEADER; super::MAX_HEADERS];
    let room = room.get_mut(..max_headers)?;
    httparse::Request::new(room).parse(data).err().map(refusal)
}

/// Parses a complete head.
pub(crate) fn parse(data: &[u8], max_headers: usize) -> Result<ParsedHead<'_>, Refusal> {
    let mut room = [httparse::EMPTY_HEADER; super::MAX_HEADERS];
    let mut request = httparse::Request::new(room.get_mut(..max_headers).ok_or(Refusal::HeadTooLarge)?);
    if request.parse(data).map_err(refusal)?.is_partial() {
        return Err(Refusal::BadRequest);
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::BadRequest);
    };
    let headers = ParsedHeaders(request.headers.iter().map(|h| (h.name, h.value)).collect());
    let one_one = version == 1;
    let hosts = headers.0.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host")).count();
    if hosts > 1 || (one_one && hosts == 0) {
        // RFC 9112 section 3.2.
        return Err(Refusal::BadRequest);
    }
    let connection = |token: &str| headers.any("connection", token);
    let keep_alive =
        if one_one { !connection("close") } else { connection("keep-alive") && !connection("close") };
    let expects_continue = match headers.0.iter().find(|(name, _)| name.eq_ignore_ascii_case("expect")) {
        // RFC 9110 section 10.1.1: not from an HTTP/1.0 client.
        Some((_, value)) if value.eq_ignore_ascii_case(b"100-continue") => one_one,
        Some(_) => return Err(Refusal::Expectation),
        None => false,
    };
    Ok(ParsedHead {
        method,
        path: path_of(target),
        framing: headers.framing(one_one)?,
        headers,
        one_one,
        keep_alive,
        expects_continue,
    })
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

impl ParsedHeaders<'_> {
    /// Whether a comma-separated header holds this token.
    fn any(&self, name: &str, token: &str) -> bool {
        self.0
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| value.split(|byte| *byte == b','))
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    fn framing(&self, one_one: bool) -> Result<Framing, Refusal> {
        let mut framing = None;
        for (name, value) in &self.0 {
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
            // Exactly one of either: duplicates are refused even where they agree.
            if framing.replace(this).is_some() {
                return Err(Refusal::BadRequest);
            }
        }
        Ok(framing.unwrap_or(Framing::Length(0)))
    }
}

/// What is kept of a head until its body is there: only what the routes read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptHead {
    method: String,
    path: String,
    headers: Vec<(&'static str, String)>,
}

impl Headers for KeptHead {
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value)
    }
}

impl KeptHead {
    /// Keeps these headers, each of which has to be text.
    pub(crate) fn new(head: &ParsedHead<'_>, read: &[&'static str]) -> Result<KeptHead, Refusal> {
        let mut headers = Vec::with_capacity(read.len());
        for name in read {
            let Some((_, value)) = head.headers.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))
            else {
                continue;
            };
            let text = std::str::from_utf8(value).ok().filter(|value| value.is_ascii());
            headers.push((*name, text.ok_or(Refusal::BadRequest)?.to_owned()));
        }
        // The gate cuts the body off an answer to HEAD by itself.
        let method = if head.method == "HEAD" { "GET" } else { head.method };
        Ok(KeptHead { method: method.to_owned(), path: head.path.to_owned(), headers })
    }

    /// What the routes look at.
    pub(crate) fn as_head(&self) -> Head<'_> {
        Head { method: &self.method, path: &self.path, headers: self, too_large: false }
    }

    /// The request line that the inner server gets, so that nothing that tiny_http reads in a way of its own ever
    /// reaches it. The routes know the path, so it is none that a stranger made up.
    pub(crate) fn request_line(&self) -> String {
        format!("{} {} HTTP/1.1\r\n", self.method, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(head: &str) -> Result<Framing, Refusal> {
        parse(head.as_bytes(), 100).map(|head| head.framing)
    }

    #[test]
    fn a_head_ends_at_its_empty_line_however_it_is_cut() {
        let data = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for from in 0..25 {
            assert_eq!(head_end(data, from), Some(27), "from {from}");
        }
        assert_eq!(head_end(b"GET / HTTP/1.1\nHost: a\n\nx", 0), Some(24));
        assert_eq!(head_end(b"GET / HTTP/1.1\r\nHost: a\r\n\r", 0), None);
    }

    #[test]
    fn framing_that_two_readers_could_read_differently_is_refused() {
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
    fn a_connection_stays_as_its_version_and_tokens_say() {
        let keeps = |head: &str| parse(head.as_bytes(), 100).unwrap().keep_alive;
        assert!(keeps("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn only_headers_that_are_read_and_the_bare_path_are_kept() {
        const READ: [&str; 1] = ["x-github-event"];
        let data =
            b"POST http://h/webhook?x=1 HTTP/1.1\r\nHost: h\r\nTE: chunked\r\nX-GitHub-Event: ping\r\n\r\n";
        let kept = KeptHead::new(&parse(data, 100).unwrap(), &READ).unwrap();
        assert_eq!(kept.headers, [("x-github-event", "ping".to_owned())]);
        assert_eq!((kept.get("X-GitHub-Event"), kept.get("te")), (Some("ping"), None));
        assert_eq!(kept.request_line(), "POST /webhook HTTP/1.1\r\n");
        let data = b"POST /w HTTP/1.1\r\nHost: h\r\nX-GitHub-Event: p\xc3\xbc\r\n\r\n";
        assert_eq!(KeptHead::new(&parse(data, 100).unwrap(), &READ), Err(Refusal::BadRequest));
    }
}
