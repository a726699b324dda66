//! What the targets of `fuzz/` call and is private otherwise.

pub fn images(bytes: &[u8]) {
    let _ = crate::manifest::parse(bytes);
    let _ = crate::manifest::mistakes(bytes);
}

pub fn config(text: &str) {
    crate::config::read_text(text);
}
