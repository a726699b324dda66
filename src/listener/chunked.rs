//! The chunked coding of RFC 9112 section 7.1, decoded as its bytes come; the chunk sizes are read by `httparse`.

use super::answer::Refusal;
use super::body::BodyBytes;

/// Bytes of a line with a chunk size and its extensions, and of one trailer.
const MAX_LINE: usize = 256;
/// Bytes of all trailers, which are thrown away.
const MAX_TRAILERS: usize = 4 * 1024;

/// Where in the coding the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    Done,
}

/// A decoder for one body.
#[derive(Debug)]
pub(crate) struct Chunked {
    at: At,
    line: Vec<u8>,
    trailers: usize,
    decoded: u64,
}

impl Chunked {
    pub(crate) fn new() -> Chunked {
        Chunked { at: At::Size, line: Vec::new(), trailers: 0, decoded: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Appends what `data` decodes to, and returns how many of its bytes belong to this body. `cap` is what the whole
    /// body may decode to.
    pub(crate) fn feed(&mut self, data: &[u8], body: &mut BodyBytes, cap: u64) -> Result<usize, Refusal> {
        let mut used = 0;
        while let Some(rest) = data.get(used..).filter(|rest| !rest.is_empty()) {
            match self.at {
                At::Done => break,
                At::Data(0) => self.at = At::DataEnd,
                At::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let most = usize::try_from(cap).unwrap_or(usize::MAX);
                    if !body.extend(rest.get(..take).unwrap_or_default(), most) {
                        return Err(Refusal::Overloaded);
                    }
                    self.at = At::Data(left - take as u64);
                    used += take;
                }
                At::Size | At::DataEnd | At::Trailer => {
                    used += self.take_line(rest)?;
                    if self.line.ends_with(b"\n") {
                        self.line_done(cap)?;
                        self.line.clear();
                    }
                }
            }
        }
        Ok(used)
    }

    fn take_line(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        let line = match rest.iter().position(|byte| *byte == b'\n') {
            Some(at) => rest.get(..=at).unwrap_or(rest),
            None => rest,
        };
        if self.line.len() + line.len() > MAX_LINE {
            return Err(Refusal::BadRequest);
        }
        self.line.extend_from_slice(line);
        Ok(line.len())
    }

    fn line_done(&mut self, cap: u64) -> Result<(), Refusal> {
        if !self.line.ends_with(b"\r\n") {
            // Unlike in a head, a bare LF is no line end here: chunked smuggling lives on it.
            return Err(Refusal::BadRequest);
        }
        match self.at {
            At::Size => {
                let size = match httparse::parse_chunk_size(&self.line) {
                    Ok(httparse::Status::Complete((used, size)))
                        if used == self.line.len()
                            && self.line.first().is_some_and(u8::is_ascii_hexdigit) =>
                    {
                        size
                    }
                    _ => return Err(Refusal::BadRequest),
                };
                self.decoded = self.decoded.saturating_add(size);
                if self.decoded > cap {
                    return Err(Refusal::BodyTooLarge);
                }
                self.at = if size == 0 { At::Trailer } else { At::Data(size) };
            }
            At::DataEnd if self.line == b"\r\n" => self.at = At::Size,
            At::DataEnd => return Err(Refusal::BadRequest),
            At::Trailer if self.line == b"\r\n" => self.at = At::Done,
            At::Trailer => {
                self.trailers += self.line.len();
                if self.trailers > MAX_TRAILERS {
                    return Err(Refusal::HeadTooLarge);
                }
            }
            At::Data(_) | At::Done => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(data: &[u8], step: usize, cap: u64) -> Result<(Vec<u8>, bool, usize), Refusal> {
        let (mut decoder, mut body, mut used) = (Chunked::new(), BodyBytes::default(), 0);
        for piece in data.chunks(step) {
            used += decoder.feed(piece, &mut body, cap)?;
        }
        Ok((body.as_slice().to_vec(), decoder.is_done(), used))
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let data = b"5;name=x\r\nhello\r\nA\r\n, chunked!\r\n0\r\nTrailer: y\r\n\r\nGET /next";
        for step in 1..=data.len() {
            let (body, done, used) = decode(data, step, 100).unwrap();
            assert_eq!((body.as_slice(), done), (&b"hello, chunked!"[..], true), "in steps of {step}");
            assert_eq!(used, data.len() - b"GET /next".len(), "in steps of {step}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
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
        ] {
            for step in [1, bad.len()] {
                assert_eq!(decode(bad, step, 100), Err(Refusal::BadRequest), "{bad:?}");
            }
        }
        assert_eq!(decode(&[b'1'; 300], 300, 100), Err(Refusal::BadRequest));
        let trailers = [b"0\r\n".to_vec(), b"T: trailer\r\n".repeat(400)].concat();
        assert_eq!(decode(&trailers, 64, 100), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn the_cap_is_over_what_is_decoded_and_known_before_it_comes() {
        assert_eq!(decode(b"65\r\n", 1, 100), Err(Refusal::BodyTooLarge));
        assert_eq!(decode(b"ffffffffffffffff\r\n", 1, 100), Err(Refusal::BodyTooLarge));
        let chunk = [b"32\r\n".to_vec(), vec![b'x'; 50], b"\r\n".to_vec()].concat();
        assert!(decode(&chunk.repeat(2), 7, 100).is_ok());
        assert_eq!(decode(&chunk.repeat(3), 7, 100), Err(Refusal::BodyTooLarge));
    }
}
