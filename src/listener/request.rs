//! Reads one whole HTTP/1.x request from a client within limits: its head, then its body.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Instant;

use super::answer::Refusal;
use super::body::BodyBytes;
use super::head::{Framing, ParsedHead, parse};
use super::limits::Limits;
use super::server::is_timeout;

/// Bytes per read. The buffer is on the stack of hundreds of connection threads.
pub(super) const PIECE: usize = 8 * 1024;
/// Bytes of a line with a chunk size and its extensions, and of one trailer.
const MAX_LINE: usize = 256;
/// Bytes of all trailers, which are discarded.
const MAX_TRAILERS: usize = 4 * 1024;

/// A client's connection and the received bytes that are not consumed yet.
pub(super) struct Incoming<'a> {
    stream: &'a TcpStream,
    buffer: Vec<u8>,
    deadline: Instant,
    silent: bool,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(stream: &'a TcpStream, deadline: Instant) -> Incoming<'a> {
        Incoming { stream, buffer: Vec::new(), deadline, silent: true }
    }

    /// Whether the client has sent nothing so far.
    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether all received bytes are consumed.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Waits for more bytes. The end of the stream is [`Refusal::BadRequest`], because the request is incomplete.
    fn fill(&mut self, piece: &mut [u8; PIECE]) -> Result<usize, Refusal> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return Err(Refusal::Timeout);
            }
            match self.stream.read(piece) {
                Ok(0) => return Err(Refusal::BadRequest),
                Ok(read) => {
                    self.silent = false;
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Err(Refusal::Timeout),
                Err(_) => return Err(Refusal::BadRequest),
            }
        }
    }

    fn fill_buffer(&mut self) -> Result<(), Refusal> {
        let mut piece = [0; PIECE];
        let read = self.fill(&mut piece)?;
        self.buffer.extend_from_slice(piece.get(..read).unwrap_or_default());
        Ok(())
    }

    /// Removes the bytes of a head from the buffer.
    ///
    /// Parses at each empty line, and when the length has doubled: an invalid request is refused early, and a head that
    /// arrives in single bytes is not parsed for each byte.
    pub(super) fn head(&mut self, limits: &Limits) -> Result<Vec<u8>, Refusal> {
        let (mut taken, mut next_look) = (0, 1);
        loop {
            // Empty lines before a request are allowed (RFC 9112, section 2.2).
            let blank = self.buffer.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.buffer.drain(..blank);
            taken += blank;
            let length = self.buffer.len();
            if length >= next_look || ends_a_head(&self.buffer) {
                next_look = 2 * length.max(1);
                if let Some(end) = parse(&self.buffer, limits.max_headers)?.map(|head| head.length) {
                    if taken + end > limits.max_head {
                        return Err(Refusal::HeadTooLarge);
                    }
                    let rest = self.buffer.split_off(end);
                    return Ok(std::mem::replace(&mut self.buffer, rest));
                }
            }
            if taken + length > limits.max_head {
                return Err(Refusal::HeadTooLarge);
            }
            self.fill_buffer()?;
        }
    }

    /// The decoded body. `hold` is called before bytes are stored, and may refuse them.
    pub(super) fn body(
        &mut self,
        head: &ParsedHead<'_>,
        max_body: u64,
        hold: &mut dyn FnMut(usize) -> Result<(), Refusal>,
    ) -> Result<BodyBytes, Refusal> {
        let mut body = BodyBytes::default();
        match head.framing {
            Framing::Length(length) if length > max_body => return Err(Refusal::BodyTooLarge),
            Framing::Length(length) => self.copy(length, &mut body, length, hold)?,
            Framing::Chunked => loop {
                let size = self.chunk_size()?;
                if size > max_body.saturating_sub(body.len() as u64) {
                    return Err(Refusal::BodyTooLarge);
                }
                if size == 0 {
                    self.skip_trailers()?;
                    break;
                }
                self.copy(size, &mut body, max_body, hold)?;
                if self.line()? != b"\r\n" {
                    return Err(Refusal::BadRequest);
                }
            },
        }
        Ok(body)
    }

    /// Moves `length` bytes into `body`, which never grows beyond `most`.
    fn copy(
        &mut self,
        length: u64,
        body: &mut BodyBytes,
        most: u64,
        hold: &mut dyn FnMut(usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        let mut keep = |bytes: &[u8]| {
            hold(bytes.len())?;
            if body.extend(bytes, most) { Ok(()) } else { Err(Refusal::Overloaded) }
        };
        let buffered = left.min(self.buffer.len());
        keep(self.buffer.get(..buffered).unwrap_or_default())?;
        self.buffer.drain(..buffered);
        left -= buffered;
        let mut piece = [0; PIECE];
        while left > 0 {
            let read = self.fill(&mut piece)?;
            let (wanted, beyond) = piece.get(..read).unwrap_or_default().split_at(read.min(left));
            keep(wanted)?;
            self.buffer.extend_from_slice(beyond);
            left -= wanted.len();
        }
        Ok(())
    }

    /// One line of the chunked coding, with its CRLF. A bare LF does not end it: otherwise request smuggling is
    /// possible.
    fn line(&mut self) -> Result<Vec<u8>, Refusal> {
        loop {
            let end = self.buffer.iter().take(MAX_LINE).position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return if line.ends_with(b"\r\n") { Ok(line) } else { Err(Refusal::BadRequest) };
            }
            if self.buffer.len() >= MAX_LINE {
                return Err(Refusal::BadRequest);
            }
            self.fill_buffer()?;
        }
    }

    fn chunk_size(&mut self) -> Result<u64, Refusal> {
        let line = self.line()?;
        match httparse::parse_chunk_size(&line) {
            Ok(httparse::Status::Complete((used, size)))
                if used == line.len() && line.first().is_some_and(u8::is_ascii_hexdigit) =>
            {
                Ok(size)
            }
            _ => Err(Refusal::BadRequest),
        }
    }

    fn skip_trailers(&mut self) -> Result<(), Refusal> {
        let mut bytes = 0;
        loop {
            let line = self.line()?;
            if line == b"\r\n" {
                return Ok(());
            }
            bytes += line.len();
            if bytes > MAX_TRAILERS {
                return Err(Refusal::HeadTooLarge);
            }
        }
    }
}

/// Whether these bytes contain an empty line.
fn ends_a_head(data: &[u8]) -> bool {
    data.windows(2).any(|two| two == b"\n\n") || data.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    type Parts = (Vec<u8>, Vec<u8>, Vec<u8>);

    /// Sends `data` in pieces of `step` bytes over a real connection and returns the head, the body and the rest.
    fn read(data: &[u8], step: usize, max_body: u64) -> Result<Parts, Refusal> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nodelay(true).unwrap();
        let (server, _) = listener.accept().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for piece in data.chunks(step) {
                    if client.write_all(piece).is_err() {
                        return;
                    }
                }
            });
            let mut incoming = Incoming::new(&server, Instant::now() + Duration::from_secs(30));
            let limits = Limits::default();
            let head = incoming.head(&limits)?;
            let parsed = parse(&head, limits.max_headers)?.unwrap();
            let body = incoming.body(&parsed, max_body, &mut |_| Ok(()))?;
            Ok((head.clone(), body.as_slice().to_vec(), incoming.buffer))
        })
    }

    const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn a_request_is_the_same_in_any_chunks() {
        let coded = b"5;name=x\r\nhello\r\nA\r\n, chunked!\r\n0\r\nTrailer: y\r\n\r\n";
        let data = [&b"\r\n\n"[..], CHUNKED, coded, b"GET /next"].concat();
        for step in [1, 2, 3, 7, 64, data.len()] {
            let (head, body, _) = read(&data, step, 100).unwrap();
            assert_eq!((head.as_slice(), body.as_slice()), (CHUNKED, &b"hello, chunked!"[..]), "{step}");
        }
        let plain = b"POST / HTTP/1.1\nHost: a\nContent-Length: 3\n\nabcGET /next";
        let (_, body, left) = read(plain, plain.len(), 100).unwrap();
        assert_eq!((body.as_slice(), left.as_slice()), (&b"abc"[..], &b"GET /next"[..]));
    }

    #[test]
    fn invalid_chunks_are_refused() {
        for bad in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b" 1\r\n",
            b"1\na\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"fffffffffffffffff\r\n",
            b"0x1\r\n",
            b"1 1\r\n",
            b"5\r\nab",
            &[b'1'; 300],
        ] {
            for step in [1, bad.len()] {
                let data = [CHUNKED, bad].concat();
                assert_eq!(read(&data, step, 100), Err(Refusal::BadRequest), "{bad:?}");
            }
        }
        let trailers = [CHUNKED, b"0\r\n", &b"T: trailer\r\n".repeat(400)].concat();
        assert_eq!(read(&trailers, 64, 100), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn the_body_limit_applies_to_decoded_bytes_and_announced_chunks() {
        let chunked = |coded: &[u8]| read(&[CHUNKED, coded].concat(), 9, 100).map(|(_, body, _)| body.len());
        assert_eq!(chunked(b"65\r\n"), Err(Refusal::BodyTooLarge));
        assert_eq!(chunked(b"ffffffffffffffff\r\n"), Err(Refusal::BodyTooLarge));
        let chunk = [&b"32\r\n"[..], &[b'x'; 50], b"\r\n"].concat();
        assert_eq!(chunked(&[chunk.repeat(2), b"0\r\n\r\n".to_vec()].concat()), Ok(100));
        assert_eq!(chunked(&chunk.repeat(3)), Err(Refusal::BodyTooLarge));
    }

    #[test]
    fn a_head_over_its_limit_is_refused_even_if_the_last_read_completes_it() {
        let head = |filler: usize| {
            let data = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(filler));
            read(data.as_bytes(), data.len(), 0).map(|(head, _, _)| head.len())
        };
        let rest = 16 * 1024 - head(0).unwrap();
        assert_eq!(head(rest), Ok(16 * 1024));
        assert_eq!(head(rest + 1), Err(Refusal::HeadTooLarge));
        assert_eq!(read(&b"\r\n".repeat(9_000), 5_000, 0), Err(Refusal::HeadTooLarge));
    }
}
