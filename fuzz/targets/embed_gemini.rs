#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| batchwright_fuzz::vectors(&["gemini"], input));
