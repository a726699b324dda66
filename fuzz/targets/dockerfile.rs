//! A Dockerfile, and a rewrite of it with other names for its images.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| swanci::fuzzing::dockerfile(text));
