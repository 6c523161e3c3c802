//! The program `batchwright-sandbox`: `batchwright exec` starts it to confine commands and to start them.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Does not return if batchwright has started it.
    batchwright_exec::confine_main();
    eprintln!("batchwright exec starts this program to confine commands; it does nothing else");
    ExitCode::from(2)
}
