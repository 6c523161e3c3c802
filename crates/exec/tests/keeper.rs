//! The keeper and the sandbox, with this test program as the helper. Rules that this kernel cannot enforce are not tested
//! here; the test prints that.

#[cfg(target_os = "linux")]
#[path = "keeper/tests.rs"]
mod tests;

fn main() {
    #[cfg(target_os = "linux")]
    tests::main();
}
