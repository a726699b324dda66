//! A Dockerfile, and the same with other names for its images.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| swanci::fuzzing::dockerfile(text));
