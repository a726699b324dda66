//! One client's connection: where it stands in its request, and what it is still to be sent.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::answer::{Refusal, Reply};
use super::body::BodyBytes;
use super::chunked::Chunked;
use super::http_head::{self, Framing, KeptHead};
use super::limits::Limits;
use super::relay::InnerAnswer;
use super::routes::READ;
use super::service::{Head, Judged, Service, Work};

/// Where a connection stands.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Reading a head, or waiting for one.
    Head,
    /// Reading a body.
    Body(Body),
    /// The request is whole and its answer has to wait: the inner server has it, or will.
    Waiting,
    /// The answer is being sent.
    Answering,
    /// The answer is sent; what still comes is thrown away until the client has seen it.
    Lingering,
}

/// Bytes that are read at once where it is not known that a body takes them.
const SIP: usize = 16 * 1024;

/// What is missing of a body.
#[derive(Debug)]
pub(crate) enum Body {
    /// So many bytes.
    Length(u64),
    /// The decoder knows.
    Chunked(Chunked),
}

/// What feeding bytes to a connection came to.
pub(crate) enum Fed {
    /// The request is not whole yet.
    More,
    /// The request is whole, and this is left to do before its answer.
    Waits(Work),
    /// The request is answered; `Some` when the gate itself refused it.
    Answered(Option<Refusal>),
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: OwnedFd,
    pub(crate) generation: u32,
    pub(crate) phase: Phase,
    /// Bytes that are not taken yet: an unfinished head, or the requests after this one.
    pub(crate) pending: Vec<u8>,
    /// How many of them were looked through for the end of a head.
    pub(crate) scanned: usize,
    /// What the routes read of the head.
    pub(crate) head: KeptHead,
    /// The decoded body.
    pub(crate) body: BodyBytes,
    /// What it costs of the budget.
    pub(crate) charged: usize,
    pub(crate) out: Vec<u8>,
    pub(crate) sent: usize,
    /// The socket may hold bytes that were not read.
    pub(crate) readable: bool,
    /// The client will send no more.
    pub(crate) half_closed: bool,
    /// Since when it has been in this request.
    pub(crate) since: Instant,
    pub(crate) deadline: Instant,
    pub(crate) served: u32,
    pub(crate) discarded: u64,
    keep_alive: bool,
    one_one: bool,
    head_only: bool,
    linger: bool,
}

/// What a connection is held to.
pub(crate) struct Rules<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) service: &'a dyn Service,
    pub(crate) now: Instant,
}

impl Client {
    pub(crate) fn new(stream: OwnedFd, generation: u32, limits: &Limits, now: Instant) -> Client {
        Client {
            stream,
            generation,
            phase: Phase::Head,
            pending: Vec::new(),
            scanned: 0,
            head: KeptHead::default(),
            body: BodyBytes::default(),
            charged: 0,
            out: Vec::new(),
            sent: 0,
            readable: true,
            half_closed: false,
            since: now,
            deadline: now + limits.head_time,
            served: 0,
            discarded: 0,
            keep_alive: false,
            one_one: true,
            head_only: false,
            linger: false,
        }
    }

    /// Bytes of strangers that it holds.
    pub(crate) fn holds(&self) -> usize {
        self.pending.len() + self.body.len()
    }

    /// How much to read at once: no more of the next request than a head may take, because it has to be kept.
    pub(crate) fn appetite(&self) -> usize {
        match self.phase {
            Phase::Body(Body::Length(left)) => usize::try_from(left).unwrap_or(usize::MAX).max(SIP),
            Phase::Head
            | Phase::Body(Body::Chunked(_))
            | Phase::Waiting
            | Phase::Answering
            | Phase::Lingering => SIP,
        }
    }

    /// Whether it holds a place without a whole request: the first to go when room is needed.
    pub(crate) fn is_unfinished(&self) -> bool {
        match self.phase {
            Phase::Head | Phase::Body(_) | Phase::Lingering => true,
            Phase::Waiting | Phase::Answering => false,
        }
    }

    /// Lets no further request follow the one that it is in.
    pub(crate) fn close_after_answer(&mut self) {
        self.keep_alive = false;
        self.served = u32::MAX;
    }

    /// Whether it is between two requests.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head) && self.pending.is_empty()
    }

    /// Whether pending bytes are there that were not tried yet.
    pub(crate) fn has_untried(&self) -> bool {
        self.scanned < self.pending.len()
    }

    /// Tries what is pending.
    pub(crate) fn feed_pending(&mut self, rules: &Rules<'_>) -> Fed {
        let pending = std::mem::take(&mut self.pending);
        let scanned = std::mem::take(&mut self.scanned);
        self.feed_from(&pending, scanned, rules)
    }

    /// Takes bytes that have just come.
    pub(crate) fn feed(&mut self, data: &[u8], rules: &Rules<'_>) -> Fed {
        if self.pending.is_empty() {
            self.feed_from(data, 0, rules)
        } else {
            self.pending.extend_from_slice(data);
            self.feed_pending(rules)
        }
    }

    fn feed_from(&mut self, data: &[u8], scanned: usize, rules: &Rules<'_>) -> Fed {
        match self.phase {
            Phase::Head => self.feed_head(data, scanned, rules),
            Phase::Body(_) => self.feed_body(data, rules),
            Phase::Waiting | Phase::Answering | Phase::Lingering => {
                self.keep(data, 0);
                Fed::More
            }
        }
    }

    fn keep(&mut self, data: &[u8], scanned: usize) {
        self.pending = data.to_vec();
        self.scanned = scanned;
    }

    fn feed_head(&mut self, data: &[u8], scanned: usize, rules: &Rules<'_>) -> Fed {
        let limits = rules.limits;
        // Empty lines before a request line are allowed (RFC 9112 section 2.2), and no end of a head.
        let blank = data.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let from = scanned.saturating_sub(3).max(blank);
        let Some(end) = http_head::head_end(data, from) else {
            if data.len() > limits.max_head {
                return self.refuse(Refusal::HeadTooLarge, rules);
            }
            // Said once, on the first bytes: parsing at every byte would make a slow head dear.
            if scanned == 0
                && let Some(refusal) = http_head::hopeless(data, limits.max_headers)
            {
                return self.refuse(refusal, rules);
            }
            self.keep(data, data.len());
            return Fed::More;
        };
        let (Some(head), Some(rest)) = (data.get(..end), data.get(end..)) else {
            return self.refuse(Refusal::BadRequest, rules);
        };
        if end > limits.max_head {
            return self.refuse(Refusal::HeadTooLarge, rules);
        }
        match http_head::parse(head, limits.max_headers) {
            Err(refusal) => self.refuse(refusal, rules),
            Ok(parsed) => self.take_head(&parsed, rest, rules),
        }
    }

    fn take_head(&mut self, parsed: &http_head::ParsedHead<'_>, rest: &[u8], rules: &Rules<'_>) -> Fed {
        self.served = self.served.saturating_add(1);
        self.one_one = parsed.one_one;
        self.keep_alive = parsed.keep_alive && self.served < rules.limits.max_requests;
        self.head_only = parsed.method == "HEAD";
        let length = match parsed.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let too_large = length.is_some_and(|length| length > rules.limits.max_body);
        let head = Head { method: parsed.method, path: parsed.path, headers: &parsed.headers, too_large };
        if let Err(reply) = rules.service.check(&head) {
            let here = length.and_then(|length| usize::try_from(length).ok());
            match here.and_then(|here| rest.get(here..)) {
                Some(next) => {
                    self.keep(next, 0);
                    self.reply(&reply, false, rules);
                }
                None => self.reply(&reply, true, rules),
            }
            return Fed::Answered(None);
        }
        match KeptHead::new(parsed, &READ) {
            Err(refusal) => return self.refuse(refusal, rules),
            Ok(head) => self.head = head,
        }
        if parsed.expects_continue && rest.is_empty() && length != Some(0) {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.deadline = rules.now + rules.limits.body_time;
        self.phase = Phase::Body(match length {
            Some(length) => Body::Length(length),
            None => Body::Chunked(Chunked::new()),
        });
        self.feed_body(rest, rules)
    }

    fn feed_body(&mut self, data: &[u8], rules: &Rules<'_>) -> Fed {
        let Phase::Body(missing) = &mut self.phase else { return Fed::More };
        let cap = rules.limits.max_body;
        let (used, whole) = match missing {
            Body::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
                let most = usize::try_from(*left).unwrap_or(usize::MAX).saturating_add(self.body.len());
                if !self.body.extend(data.get(..take).unwrap_or_default(), most) {
                    return self.refuse(Refusal::Overloaded, rules);
                }
                *left -= take as u64;
                (take, *left == 0)
            }
            Body::Chunked(decoder) => match decoder.feed(data, &mut self.body, cap) {
                Ok(used) => (used, decoder.is_done()),
                Err(refusal) => return self.refuse(refusal, rules),
            },
        };
        if !whole {
            return Fed::More;
        }
        if let Some(next) = data.get(used..).filter(|next| !next.is_empty()) {
            self.keep(next, 0);
        }
        self.judge(rules)
    }

    /// Has a whole request judged. Its body has then said what it had to say.
    fn judge(&mut self, rules: &Rules<'_>) -> Fed {
        let body = std::mem::take(&mut self.body);
        let judged =
            catch_unwind(AssertUnwindSafe(|| rules.service.judge(&self.head.as_head(), body.as_slice())));
        self.phase = Phase::Waiting;
        self.deadline = rules.now + rules.limits.answer_time;
        match judged {
            Ok(Judged::Waits(work)) => return Fed::Waits(work),
            Ok(Judged::Answered(reply)) => self.reply(&reply, false, rules),
            Err(_) => self.reply(&Reply::panicked(), false, rules),
        }
        Fed::Answered(None)
    }

    /// Answers for the gate, and closes after it.
    pub(crate) fn refuse(&mut self, refusal: Refusal, rules: &Rules<'_>) -> Fed {
        let unread = self.is_unfinished();
        self.keep_alive = false;
        self.reply(&refusal.reply(), unread, rules);
        Fed::Answered(Some(refusal))
    }

    /// Puts an answer of the gate's own into the buffer. With `unread` there is more of this request to come.
    fn reply(&mut self, reply: &Reply, unread: bool, rules: &Rules<'_>) {
        if unread {
            self.keep_alive = false;
            self.linger = true;
            self.pending = Vec::new();
            self.scanned = 0;
        }
        let date =
            jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now());
        let retry_after = reply.retry_after.map(|seconds| seconds.to_string());
        let mut headers = Vec::with_capacity(4);
        if let Ok(date) = &date {
            headers.push(("Date", date.as_bytes()));
        }
        headers.push(("Content-Type", reply.content_type.as_bytes()));
        headers.extend(reply.allow.map(|allow| ("Allow", allow.as_bytes())));
        headers.extend(retry_after.as_ref().map(|seconds| ("Retry-After", seconds.as_bytes())));
        self.answer(&InnerAnswer { status: reply.status, headers, body: &reply.body }, rules);
    }

    /// Puts an answer into the buffer, and the request aside.
    pub(crate) fn answer(&mut self, answer: &InnerAnswer<'_>, rules: &Rules<'_>) {
        use std::io::Write as _;
        self.head = KeptHead::default();
        self.body = BodyBytes::default();
        let reason = tiny_http::StatusCode(answer.status).default_reason_phrase();
        let out = &mut self.out;
        out.reserve(256 + answer.body.len());
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", answer.status);
        for (name, value) in &answer.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        let connection = match (self.keep_alive, self.one_one) {
            (true, true) => "",
            (true, false) => "Connection: keep-alive\r\n",
            (false, _) => "Connection: close\r\n",
        };
        let _ = write!(out, "Content-Length: {}\r\n{connection}\r\n", answer.body.len());
        if !self.head_only {
            out.extend_from_slice(answer.body);
        }
        self.phase = Phase::Answering;
        self.deadline = rules.now + rules.limits.write_time;
    }

    /// What follows a sent answer: `true` when the connection goes on (to its next request, or to linger).
    pub(crate) fn answered(&mut self, rules: &Rules<'_>) -> bool {
        self.out.clear();
        if self.out.capacity() > 4096 {
            self.out = Vec::new();
        }
        self.sent = 0;
        self.since = rules.now;
        self.head_only = false;
        // Closing a socket that holds unread bytes resets it, and the client might never see the answer.
        if self.linger || (!self.keep_alive && (self.readable || !self.pending.is_empty())) {
            self.pending = Vec::new();
            self.scanned = 0;
            self.phase = Phase::Lingering;
            self.deadline = rules.now + rules.limits.linger_time;
            // Fails when the client is gone, which the next read finds out.
            let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
            return true;
        }
        self.phase = Phase::Head;
        self.deadline = rules.now + rules.limits.head_time;
        self.keep_alive
    }
}
