//! One kept connection to the inner server: a request goes in, its answer comes out.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};

/// Whose request a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// This client's.
    Client(u64),
    /// The gate's own.
    Probe,
}

/// A request on its way. What is to be done for it is in the link's slot.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) sender: Sender,
    pub(crate) head: String,
}

/// A connection to the inner server.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    errand: Option<Errand>,
    answer: Vec<u8>,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Link {
        Link { stream, errand: None, answer: Vec::new() }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.errand.is_none()
    }

    pub(crate) fn errand(&self) -> Option<&Errand> {
        self.errand.as_ref()
    }

    /// Takes an errand and sends its head. That fits into an idle socket's buffer, being bounded to a few kilobytes; a
    /// link where it does not is broken.
    pub(crate) fn start(&mut self, errand: Errand) -> io::Result<()> {
        self.answer.clear();
        let sent = self.stream.write_all(errand.head.as_bytes());
        self.errand = Some(errand);
        sent
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
    fn an_errand_comes_back_with_its_answer_however_that_is_cut() {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut link = Link::new(near);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        for cut in 1..answer.len() {
            let errand = Errand { sender: Sender::Client(cut as u64), head: "HEAD".to_owned() };
            link.start(errand).unwrap();
            let mut head = [0; 4];
            std::io::Read::read_exact(&mut far, &mut head).unwrap();
            assert_eq!((&head, link.is_idle()), (b"HEAD", false));
            far.write_all(&answer[..cut]).unwrap();
            assert!(link.receive(&mut [0; 512]).unwrap().is_none());
            far.write_all(&answer[cut..]).unwrap();
            let (errand, whole) = link.receive(&mut [0; 7]).unwrap().unwrap();
            assert_eq!((errand.sender, whole.as_slice()), (Sender::Client(cut as u64), &answer[..]));
            assert!(link.is_idle());
        }
        drop(far);
        assert!(link.receive(&mut [0; 512]).is_err());
    }
}
