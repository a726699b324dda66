//! Splits a child's output into redacted lines, keeps the last ones, and captures standard output.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};

use super::{Stream, TAIL_LINES};
use crate::redact;

/// Bytes; the rest of a longer line is dropped, so that a program cannot fill the memory.
const LONGEST_LINE: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Lines {
    /// Standard output.
    pub(super) captured: Vec<u8>,
    /// The cap, if standard output exceeded it.
    pub(super) exceeded: Option<usize>,
    /// The last lines of both outputs.
    pub(super) tail: VecDeque<String>,
    cap: Option<usize>,
    partial: [Vec<u8>; 2],
}

impl Lines {
    pub(super) fn new(cap: Option<usize>) -> Lines {
        Lines { cap, ..Lines::default() }
    }

    /// Returns `false` at the end of the stream.
    pub(super) fn read(
        &mut self,
        mut reader: impl Read,
        stream: Stream,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> std::io::Result<bool> {
        let mut chunk = [0u8; 16 << 10];
        match reader.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.take(stream, &chunk[..n], on_line);
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
            Err(e) => Err(e),
        }
    }

    fn take(&mut self, stream: Stream, bytes: &[u8], on_line: &mut dyn FnMut(Stream, &str)) {
        if let (Stream::Stdout, Some(cap)) = (stream, self.cap) {
            let space = cap.saturating_sub(self.captured.len());
            if bytes.len() > space {
                self.exceeded = Some(cap);
            }
            self.captured.extend_from_slice(&bytes[..bytes.len().min(space)]);
        }
        for piece in bytes.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
            let ended = matches!(piece.last(), Some(b'\n' | b'\r'));
            let text = if ended { &piece[..piece.len() - 1] } else { piece };
            let partial = &mut self.partial[stream as usize];
            let space = LONGEST_LINE.saturating_sub(partial.len());
            partial.extend_from_slice(&text[..text.len().min(space)]);
            if ended {
                self.end_line(stream, on_line);
            }
        }
    }

    fn end_line(&mut self, stream: Stream, on_line: &mut dyn FnMut(Stream, &str)) {
        let bytes = std::mem::take(&mut self.partial[stream as usize]);
        if bytes.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        let line = redact::scrub(&text);
        on_line(stream, &line);
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.into_owned());
    }

    /// Ends the lines without a newline at the end of the streams.
    pub(super) fn flush(&mut self, on_line: &mut dyn FnMut(Stream, &str)) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end_line(stream, on_line);
        }
    }
}
