//! A command to run, and its result, as data.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::StopReason;
use batchwright::progress::Timestamp;
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Serialize, Serializer};

use super::output::{Output, shown};
use super::words::quote;

/// A command: its program, its arguments, and its source.
///
/// ```
/// use batchwright_exec::CommandJob;
/// let job = CommandJob::new("gzip").arg("-k").arg("a file.txt").with_id("first");
/// assert_eq!(job.text(), "gzip -k 'a file.txt'");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandJob {
    id: Option<String>,
    /// Its number in the input, from 1; 0 before it is part of a run.
    pub seq: u64,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// The original text, if it contains more than the words.
    pub(super) text: Option<Vec<u8>>,
    /// The file it was read from.
    pub file: Option<PathBuf>,
    /// The line in that file on which it begins, from 1.
    pub line: Option<u64>,
}

impl CommandJob {
    /// Runs a program, which is searched in `PATH` unless its name contains a slash.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self::of_words(vec![program.into()])
    }

    /// Runs a text with `sh -c`.
    pub fn shell(text: impl Into<OsString>) -> Self {
        let text = text.into();
        let written = text.as_encoded_bytes().to_vec();
        let mut job = Self::of_words(vec!["sh".into(), "-c".into(), text]);
        job.text = Some(written);
        job
    }

    pub(super) fn of_words(command: Vec<OsString>) -> Self {
        Self {
            command,
            ..Self::default()
        }
    }

    /// Adds an argument, which is passed to the program unchanged.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets its name. Default: its number in the input, from 1.
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Its name.
    pub fn id(&self) -> Cow<'_, str> {
        let id = self.id.as_deref().map(Cow::Borrowed);
        id.unwrap_or_else(|| self.seq.to_string().into())
    }

    pub(super) fn program(&self) -> &OsStr {
        let program = self.command.first();
        program.map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// The command quoted for a shell. Bytes that are not UTF-8 are shown as U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text_bytes()).into_owned()
    }

    /// The same, byte for byte: the text in a job log, which identifies the command when a run is resumed.
    pub fn text_bytes(&self) -> Cow<'_, [u8]> {
        if let Some(text) = &self.text {
            return Cow::Borrowed(text);
        }
        let words = self.command.iter();
        let words = words.map(|word| quote(word.as_encoded_bytes()));
        Cow::Owned(words.collect::<Vec<_>>().join(&b' '))
    }
}

/// The state of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum JobStatus {
    /// It was read and waits for a slot, the rate limit, or a retry.
    Pending,
    /// It runs.
    Running,
    /// It ended with exit code 0.
    Completed,
    /// It failed permanently, for the reason in [`JobRecord::error`].
    Failed,
    /// The run ended before it did; the reason is in [`JobRecord::error`].
    Cancelled,
}

/// Why a command failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// It ended with an exit code other than 0.
    Exit,
    /// A signal ended it.
    Signal,
    /// It did not end within its time limit.
    Timeout,
    /// The program does not exist.
    NotFound,
    /// The program is not in the allow-list.
    NotAllowed,
    /// It could not be confined, so it was not run.
    Sandbox,
    /// It could not be started for another reason.
    NotStarted,
    /// It was not started, because open files, processes or memory were missing.
    Resources,
    /// The disk has no space for its output.
    DiskFull,
    /// The run ended before it did.
    Cancelled,
    /// The code of this crate panicked.
    Panic,
}

impl FailureKind {
    /// True for failures that stop a run under [`ErrorPolicy::StopOnCriticalError`](batchwright::ErrorPolicy): those
    /// that other commands are likely to share, and death by a signal.
    pub fn is_critical(self) -> bool {
        !matches!(
            self,
            Self::Exit | Self::Timeout | Self::Resources | Self::Cancelled | Self::Panic
        )
    }

    /// True for failures that a retry may fix.
    pub(super) fn is_retried(self) -> bool {
        matches!(self, Self::Exit | Self::Signal | Self::Timeout)
    }
}

/// The exit code of a process, or the signal that ended it; neither if the system does not report its end.
pub(super) type End = (Option<i32>, Option<i32>);

/// A failure, with a message for people and a kind for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobError {
    /// What went wrong.
    pub kind: FailureKind,
    /// The message.
    pub message: String,
}

impl JobError {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// How a started command ran. After several attempts, the last one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CommandResult {
    /// Its exit code; `None` if a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Time of the start.
    pub start: Timestamp,
    /// Duration.
    pub duration: Duration,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
}

/// A command and its result.
///
/// In JSON it is one flat object: `id`, `seq`, `success` (whether it ended with exit code 0), `command` (the
/// words), `text`, `file`, `line`, `status`, `attempts`, `result` (`exit_code`, `signal`, `start` in milliseconds
/// since 1970, `duration_ms`, `stdout`, `stderr`, `stdout_bytes`, `stderr_bytes`, `truncated`) and `error` (`kind`,
/// `message`). In texts, invalid UTF-8 is replaced by U+FFFD. Only in that case, the original bytes of the standard
/// output are added in base64, as `stdout_base64`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobRecord {
    /// The command.
    pub job: Arc<CommandJob>,
    /// Its state.
    pub status: JobStatus,
    /// Number of starts.
    pub attempts: u32,
    /// Its result; `None` if it was never started.
    pub result: Option<CommandResult>,
    /// The reason if it failed or was cancelled.
    pub error: Option<JobError>,
}

impl JobRecord {
    /// The record of a command that was never started, because the run ended for this reason.
    pub fn not_run(job: CommandJob, stop: &StopReason) -> Self {
        let why = format!("not run, since the run ended early: {stop}");
        Self {
            status: JobStatus::Cancelled,
            error: Some(JobError::new(FailureKind::Cancelled, why)),
            ..Self::pending(Arc::new(job))
        }
    }

    pub(super) fn pending(job: Arc<CommandJob>) -> Self {
        Self {
            job,
            status: JobStatus::Pending,
            attempts: 0,
            result: None,
            error: None,
        }
    }
}

impl Serialize for CommandResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (stdout, stderr) = (&self.stdout, &self.stderr);
        let out = stdout.kept().map_err(S::Error::custom)?;
        let err = stderr.kept().map_err(S::Error::custom)?;
        let text = shown(&out, stdout.lost() > 0);
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("exit_code", &self.exit_code)?;
        line.serialize_entry("signal", &self.signal)?;
        line.serialize_entry("start", &self.start.0)?;
        let duration_ms = (self.duration.as_secs_f64() * 1e6).round() / 1e3;
        line.serialize_entry("duration_ms", &duration_ms)?;
        line.serialize_entry("stdout", &text)?;
        // Bytes that are not UTF-8, beside a character that was cut off.
        if !out.starts_with(text.as_bytes()) {
            line.serialize_entry("stdout_base64", &STANDARD.encode(&out))?;
        }
        line.serialize_entry("stderr", &shown(&err, stderr.lost() > 0))?;
        line.serialize_entry("stdout_bytes", &stdout.total())?;
        line.serialize_entry("stderr_bytes", &stderr.total())?;
        line.serialize_entry("truncated", &(stdout.lost() + stderr.lost() > 0))?;
        line.end()
    }
}

impl Serialize for JobRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let job = &self.job;
        let words = job.command.iter().map(|word| word.to_string_lossy());
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("id", &job.id())?;
        line.serialize_entry("seq", &job.seq)?;
        line.serialize_entry("success", &(self.status == JobStatus::Completed))?;
        line.serialize_entry("command", &words.collect::<Vec<_>>())?;
        line.serialize_entry("text", &job.text())?;
        line.serialize_entry("file", &job.file.as_deref().map(Path::to_string_lossy))?;
        line.serialize_entry("line", &job.line)?;
        line.serialize_entry("status", &self.status)?;
        line.serialize_entry("attempts", &self.attempts)?;
        line.serialize_entry("result", &self.result)?;
        line.serialize_entry("error", &self.error)?;
        line.end()
    }
}
