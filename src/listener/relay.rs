//! One kept connection to the inner server: a request goes in, its answer comes out.

use std::io::{self, IoSlice, Write as _};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};

use super::body::BodyBytes;

/// Whose request a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// This client's.
    Client(u64),
    /// The gate's own.
    Probe,
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) sender: Sender,
    pub(crate) head: Vec<u8>,
    pub(crate) body: BodyBytes,
    /// What the body costs of the budget, until the answer is here.
    pub(crate) charged: usize,
}

/// A connection to the inner server.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) stream: UnixStream,
    errand: Option<Errand>,
    sent: usize,
    answer: Vec<u8>,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Link {
        Link { stream, errand: None, sent: 0, answer: Vec::new() }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.errand.is_none()
    }

    pub(crate) fn errand(&self) -> Option<&Errand> {
        self.errand.as_ref()
    }

    /// Whether some of the request has not gone yet.
    pub(crate) fn is_unsent(&self) -> bool {
        self.errand.as_ref().is_some_and(|errand| !errand.head.is_empty())
    }

    /// Takes an errand and sends as much of it as fits.
    pub(crate) fn start(&mut self, errand: Errand) -> io::Result<()> {
        self.errand = Some(errand);
        self.sent = 0;
        self.answer.clear();
        self.send()
    }

    /// Sends what is left of the request, as far as it fits.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        let Some(errand) = &mut self.errand else { return Ok(()) };
        let total = errand.head.len() + errand.body.len();
        while self.sent < total {
            let head = errand.head.get(self.sent..).unwrap_or_default();
            let body =
                errand.body.as_slice().get(self.sent.saturating_sub(errand.head.len())..).unwrap_or_default();
            match self.stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if total > 0 {
            // The worker holds the body from here on.
            (errand.head, errand.body) = (Vec::new(), BodyBytes::default());
            self.sent = 0;
        }
        Ok(())
    }

    /// Reads what has come; the errand and its answer when that is whole.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> io::Result<Option<(Errand, Vec<u8>)>> {
        loop {
            match recv(&self.stream, &mut *scratch, RecvFlags::empty()) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, read)) => {
                    self.answer.extend_from_slice(scratch.get(..read).unwrap_or_default());
                    if read < scratch.len() {
                        break;
                    }
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.answer.is_empty() || InnerAnswer::parse(&self.answer)?.is_none() {
            return Ok(None);
        }
        if self.is_unsent() {
            return Err(io::Error::other("an answer to half a request"));
        }
        match self.errand.take() {
            Some(errand) => Ok(Some((errand, std::mem::take(&mut self.answer)))),
            None => Err(io::Error::other("an answer that nobody asked for")),
        }
    }
}

/// An answer of the inner server, whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InnerAnswer<'a> {
    pub(crate) status: u16,
    /// Header lines to pass on, each name and value.
    pub(crate) headers: Vec<(&'a str, &'a [u8])>,
    pub(crate) body: &'a [u8],
}

impl InnerAnswer<'_> {
    /// `None` while it is not whole; an error when it is none, or when something follows it.
    pub(crate) fn parse(data: &[u8]) -> io::Result<Option<InnerAnswer<'_>>> {
        let mut room = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut room);
        let head = match response.parse(data).map_err(io::Error::other)? {
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete(head) => head,
        };
        let mut headers = Vec::with_capacity(response.headers.len());
        let mut length = None;
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                length = std::str::from_utf8(header.value).ok().and_then(|value| value.parse::<usize>().ok());
            } else if !["server", "connection", "transfer-encoding"]
                .iter()
                .any(|own| header.name.eq_ignore_ascii_case(own))
            {
                headers.push((header.name, header.value));
            }
        }
        let length = length.ok_or_else(|| io::Error::other("the inner server's answer has no length"))?;
        let (Some(status), Some(body)) = (response.code, data.get(head..)) else {
            return Err(io::Error::other("the inner server's answer has no status"));
        };
        match body.len().cmp(&length) {
            std::cmp::Ordering::Less => Ok(None),
            std::cmp::Ordering::Equal => Ok(Some(InnerAnswer { status, headers, body })),
            std::cmp::Ordering::Greater => Err(io::Error::other("the inner server answered twice")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_at_its_last_byte_and_not_before() {
        let data = b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: y\r\nContent-Length: 2\r\n\r\nok";
        for end in 0..data.len() {
            assert_eq!(InnerAnswer::parse(&data[..end]).unwrap(), None, "{end}");
        }
        let answer = InnerAnswer::parse(data).unwrap().unwrap();
        assert_eq!((answer.status, answer.body), (200, &b"ok"[..]));
        assert_eq!(answer.headers, [("Date", &b"y"[..])]);
        assert!(InnerAnswer::parse(&[&data[..], b"x"].concat()).is_err());
        assert!(InnerAnswer::parse(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn a_large_errand_is_sent_as_it_fits() {
        use std::io::Read as _;
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut link = Link::new(near);
        let mut bytes = BodyBytes::default();
        let body: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
        assert!(bytes.extend(&body, body.len()));
        let errand = Errand { sender: Sender::Probe, head: b"HEAD".to_vec(), body: bytes, charged: 0 };
        link.start(errand).unwrap();
        assert!(link.errand().unwrap().body.len() > 0, "a megabyte cannot fit into the socket at once");
        let mut got = Vec::new();
        let mut piece = vec![0; 70_001];
        while got.len() < 4 + body.len() {
            let read = far.read(&mut piece).unwrap();
            got.extend_from_slice(&piece[..read]);
            link.send().unwrap();
        }
        assert!(link.errand().unwrap().body.len() == 0);
        assert!(got[..4] == *b"HEAD" && got[4..] == body);
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        let (errand, answer) = link.receive(&mut [0; 512]).unwrap().unwrap();
        assert_eq!((errand.sender, answer.len()), (Sender::Probe, 38));
        assert!(link.is_idle());
    }
}
