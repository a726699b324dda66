//! What a gate stands in front of: something that looks at heads, and answers whole requests.

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

/// One set of routes behind a gate.
pub(crate) trait Service: Send + Sync + 'static {
    /// `Err` where the head alone decides the answer, so that no body has to be read.
    fn check(&self, head: &Head<'_>) -> Result<(), Reply>;

    /// Answers a whole request. May block, on one of the inner server's workers.
    fn call(&self, head: &Head<'_>, body: &[u8]) -> Reply;
}
