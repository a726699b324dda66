//! Parse, call the library, exit.
fn main() {}
