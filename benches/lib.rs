//! The benchmarks of the library: `cargo bench -p batchwright-benches`.
