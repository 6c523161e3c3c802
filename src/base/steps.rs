//! Compares what readers do while the longest element of their input grows.

/// Asserts that a reader is linear, from its steps for an input whose longest element has a number of pieces. That number
/// is doubled three times: what grows with the square then has 64 times the steps.
#[track_caller]
pub fn assert_linear(what: &str, steps: impl Fn(usize) -> u64) {
    let steps = [1, 2, 4, 8].map(|times| steps(512 * times));
    assert!(steps[3] < 12 * steps[0] + 65_536, "{what}: {steps:?}");
}

/// Bytes that this thread allocates: whatever is copied again and again is allocated again.
pub fn allocated(read: impl FnOnce()) -> u64 {
    allocation_counter::measure(read).bytes_total
}
