//! What the targets of `fuzz/` call and is private otherwise.

pub fn images(bytes: &[u8]) {
    let _ = crate::manifest::each(bytes).map(Iterator::count);
}

pub fn config(text: &str) {
    crate::config::read_text(text);
}
