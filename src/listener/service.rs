//! What a gate stands in front of: something that looks at heads, and judges whole requests.

use super::answer::Reply;

/// Headers by name, wherever they were parsed.
pub(crate) trait Headers {
    /// The first value of this header, ignoring case; `None` also when it is not text.
    fn get(&self, name: &str) -> Option<&str>;
}

/// What is known of a request before its body.
pub(crate) struct Head<'a> {
    /// As sent; methods are case-sensitive.
    pub(crate) method: &'a str,
    /// Without query and authority.
    pub(crate) path: &'a str,
    /// The headers.
    pub(crate) headers: &'a dyn Headers,
    /// The body is known to be over the cap.
    pub(crate) too_large: bool,
}

/// What is left to do for a request when all its bytes are read. It may block: a worker of the inner server does it.
pub(crate) type Work = Box<dyn FnOnce() -> Reply + Send>;

/// What a whole request comes to.
pub(crate) enum Judged {
    /// Its bytes alone say the answer.
    Answered(Reply),
    /// The answer depends on a disk, a lock or another program.
    Waits(Work),
}

/// One set of routes behind a gate. The gate's thread calls it, so neither method may wait for anything.
pub(crate) trait Service: Send + Sync + 'static {
    /// `Err` where the head alone decides the answer, so that no body has to be read.
    fn check(&self, head: &Head<'_>) -> Result<(), Reply>;

    /// Judges a whole request that passed the check.
    fn judge(&self, head: &Head<'_>, body: &[u8]) -> Judged;
}
