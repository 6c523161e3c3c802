//! Runs commands in parallel: reads them from scripts and lists, limits their rate, retries them, kills them with
//! their process groups, and resumes runs.
//!
//! | to | use |
//! |---|---|
//! | run commands | [`CommandRunner`]; to finish or kill running commands when it stops, [`OnStop`] |
//! | run them on separate threads | [`CommandRunner::submit_jobs`], [`SubmittedJobs`] |
//! | describe one command | [`CommandJob`] |
//! | read commands from files or standard input | [`Commands`], [`Jobs`]; with placeholders, [`Template`] |
//! | see the result of a command | [`JobRecord`], [`JobStatus`], [`CommandResult`], [`JobError`], [`FailureKind`] |
//! | read its output | [`Output`]; to set where large output goes, [`Overflow`] |
//! | see the results of a run | [`CommandReport`] |
//! | log commands as GNU parallel does, and resume from the log | [`JobLog`], [`Resume`], [`Finished`] |
//! | write records to a file | [`RecordFile`] |
//! | see the progress of a run | [`Monitor`], [`JobCounts`] |
//! | set what commands may use: programs, environment, files, network, limits | [`Sandbox`], [`SandboxMode`], [`Limits`] |
//! | confine commands that you start yourself | [`Prepared`], [`Confined`], [`ConfinedProcess`], [`Containment`] |
//! | let a program be its own helper | [`confine_main`] |

#[cfg(unix)]
mod group_watchdog;
mod job;
mod joblog;
mod launch;
mod line_file;
mod monitor;
mod order;
mod output;
mod output_folder;
#[cfg(unix)]
mod process;
#[cfg(not(unix))]
#[path = "process_elsewhere.rs"]
mod process;
#[cfg(unix)]
mod reap;
mod record;
mod record_file;
mod refusal;
mod runner;
mod sandbox;
mod script;
mod shell_text;
#[cfg(unix)]
mod started;
mod submit;
mod template;
mod words;

pub use job::CommandJob;
pub use joblog::{Finished, JobLog, Resume};
pub use monitor::{JobCounts, Monitor};
pub use output::{Output, Overflow};
pub use record::{CommandResult, FailureKind, JobError, JobRecord, JobStatus};
pub use record_file::RecordFile;
pub use runner::{CommandReport, CommandRunner, OnStop};
pub use sandbox::confined::{Confined, ConfinedProcess};
pub use sandbox::limits::Limits;
pub use sandbox::prepared::{Containment, Prepared};
pub use sandbox::{Sandbox, SandboxMode, confine_main};
pub use script::{Commands, Jobs};
pub use submit::SubmittedJobs;
pub use template::Template;

/// The program in the documentation compiles.
#[cfg(all(doctest, unix))]
mod pages {
    #[doc = include_str!("../../../docs/commands.md")]
    struct Commands;
}
