//! images.json.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| swanci::fuzzing::images(data));
