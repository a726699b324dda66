//! The configuration file.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| swanci::fuzzing::config(text));
