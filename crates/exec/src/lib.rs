//! Runs commands in parallel: reads them from scripts and lists, limits their rate, retries them, kills them with
//! their process groups, and resumes runs.
//!
//! | to | use |
//! |---|---|
//! | run commands | [`CommandRunner`] |
//! | run them on separate threads | [`CommandRunner::submit_jobs`], [`SubmittedJobs`] |
//! | describe one command | [`CommandJob`] |
//! | read commands from files or standard input | [`Commands`]; with placeholders, [`Template`] |
//! | see the result of a command | [`JobRecord`], [`JobStatus`], [`CommandResult`], [`JobError`], [`FailureKind`] |
//! | read its output | [`Output`] |
//! | see the results of a run | [`CommandReport`] |
//! | log commands as GNU parallel does, and resume from the log | [`JobLog`], [`Finished`] |
//! | write records to a file | [`RecordFile`] |
//! | see the progress of a run | [`Monitor`], [`JobCounts`] |
//! | set what commands may use: programs, environment, files, network, memory | [`Sandbox`], [`SandboxMode`] |
//! | find out what of it this system enforces | [`SandboxStatus`] |
//! | let a program be its own helper | [`confine_main`] |

mod joblog;
mod line_file;
mod monitor;
mod output;
mod process;
mod record;
mod runner;
mod sandbox;
mod script;
mod submit;
mod template;
mod words;

pub use joblog::{Finished, JobLog};
pub use line_file::RecordFile;
pub use monitor::{JobCounts, Monitor};
pub use output::Output;
pub use record::{CommandJob, CommandResult, FailureKind, JobError, JobRecord, JobStatus};
pub use runner::{CommandReport, CommandRunner};
pub use sandbox::{Sandbox, SandboxMode, SandboxStatus, confine_main};
pub use script::Commands;
pub use submit::SubmittedJobs;
pub use template::Template;

/// The error of settings, inputs and files that cannot be used.
fn invalid(why: impl Into<String>) -> batchwright::Error {
    batchwright::Error::new(batchwright::ErrorKind::Invalid, why)
}

/// The program in the documentation compiles.
#[cfg(all(doctest, unix))]
mod pages {
    #[doc = include_str!("../../../docs/commands.md")]
    struct Commands;
}
