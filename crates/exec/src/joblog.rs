//! The job log, in the format of GNU parallel, and resuming from it.

use std::collections::HashMap;
use std::path::Path;

use batchwright::Error;
use batchwright::progress::Timestamp;
use batchwright::unstable::{Clock, SystemClock};
use sha2::{Digest, Sha256};

use super::line_file::LineFile;
use super::record::{CommandJob, FailureKind, JobRecord, JobStatus};

const HEADER: &[u8] = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand";

/// What stands for a command.
type Key = [u8; 32];

/// A log with a line for each command that ended, written completely and flushed at that time. Commands that the
/// end of the run interrupted are not in it.
///
/// The columns are those of GNU parallel, which can read such a log:
/// `Seq Host Starttime JobRuntime Send Receive Exitval Signal Command`, separated by tabs. A line end within a
/// command is written as a NUL byte. A time-out has the exit value -1 and the signal that ended the
/// command (0 if it ended by itself after SIGTERM); a command that could not be started has the exit value 127 or 126.
pub struct JobLog {
    file: LineFile,
    finished: Finished,
}

/// The commands in a log that are not run again. They are identified by their text only, and each counts as often
/// as it is in the log. So lines of the input may be inserted, removed or reordered; a changed command is a new
/// one.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// Number of successes and of failures of each.
    left: HashMap<Key, [u64; 2]>,
    /// Number of counted-off commands.
    pub taken: u64,
    /// Number of counted-off commands that had failed.
    pub failed: u64,
}

impl Finished {
    /// Whether the log has this command, which is then counted off; successful ones are counted off first.
    pub fn take(&mut self, job: &CommandJob) -> bool {
        let key = key(&logged(&job.text_bytes()));
        let mut ends = self.left.get_mut(&key).into_iter().flatten().enumerate();
        let Some((kind, left)) = ends.find(|(_, left)| **left > 0) else {
            return false;
        };
        *left -= 1;
        self.failed += kind as u64;
        self.taken += 1;
        true
    }

    /// Number of commands that were not counted off.
    pub fn left(&self) -> u64 {
        self.left.values().flatten().sum()
    }
}

impl JobLog {
    /// Opens a log, or creates it. An existing log is continued: its commands are not run again, except those that had
    /// failed with `failed_again`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](batchwright::ErrorKind::Invalid) if the file is not a job log, if another run writes to it,
    /// or if it cannot be opened.
    pub fn open(path: impl AsRef<Path>, failed_again: bool) -> Result<Self, Error> {
        let mut has_header = false;
        // If a command ran several times under one number, its last run counts.
        let mut ended: HashMap<(u64, Key), bool> = HashMap::new();
        let file = LineFile::open(path.as_ref(), "line of a job log", |line, whole| {
            if !has_header {
                has_header = whole && line == HEADER;
                return has_header;
            }
            // The end of a torn line is a part of its command.
            let parsed = parse(line).filter(|_| whole);
            if let Some((seq, succeeded, command)) = parsed {
                ended.insert((seq, key(command)), succeeded);
            }
            parsed.is_some()
        })?;
        let mut finished = Finished::default();
        for ((_, key), succeeded) in ended {
            if succeeded || !failed_again {
                finished.left.entry(key).or_default()[usize::from(!succeeded)] += 1;
            }
        }
        Ok(Self { file, finished })
    }

    /// The commands that are not run again.
    pub fn finished(&self) -> Finished {
        self.finished.clone()
    }

    /// Adds a command that has ended; a cancelled one is omitted.
    ///
    /// # Errors
    /// If it cannot be written; then the log is unchanged.
    pub fn append(&mut self, record: &JobRecord) -> Result<(), Error> {
        let mut line = Vec::new();
        if self.file.lines == 0 {
            line.extend([HEADER, b"\n"].concat());
        }
        if matches!(record.status, JobStatus::Completed | JobStatus::Failed) {
            line.extend(log_line(record));
        }
        self.file.append(&line)
    }

    /// Checks that the log still exists.
    ///
    /// # Errors
    /// If another program removed or replaced it.
    pub fn check(&self) -> Result<(), Error> {
        self.file.check()
    }
}

fn log_line(record: &JobRecord) -> Vec<u8> {
    let result = record.result.as_ref();
    let Timestamp(start) = result.map_or_else(|| SystemClock.wall(), |result| result.start);
    let took = result.map_or(0.0, |result| result.duration.as_secs_f64());
    let printed = result.map_or(0, |result| result.stdout.total());
    let (exit, signal) = match record.error.as_ref().map(|error| error.kind) {
        Some(FailureKind::Timeout) => (-1, result.and_then(|result| result.signal).unwrap_or(0)),
        Some(FailureKind::NotFound) => (127, 0),
        // Of some the output is missing, although they succeeded.
        Some(FailureKind::DiskFull | FailureKind::NotStarted) => (126, 0),
        Some(_) if result.is_none() => (126, 0),
        _ => {
            let signal = result.and_then(|result| result.signal);
            // The system does not report the end of a process that a debugger holds.
            let unknown = -i32::from(result.is_some() && signal.is_none());
            let exit = result.and_then(|result| result.exit_code);
            (exit.unwrap_or(unknown), signal.unwrap_or(0))
        }
    };
    let columns = format!(
        "{}\t:\t{}.{:03}\t{took:10.3}\t0\t{printed}\t{exit}\t{signal}\t",
        record.job.seq,
        start / 1000,
        start.rem_euclid(1000),
    );
    let mut line = columns.into_bytes();
    line.extend(logged(&record.job.text_bytes()));
    line.push(b'\n');
    line
}

/// A command in the format of the log.
fn logged(text: &[u8]) -> Vec<u8> {
    let shown = |byte: &u8| if *byte == b'\n' { 0 } else { *byte };
    text.iter().map(shown).collect()
}

/// Number, success and command of a line.
fn parse(line: &[u8]) -> Option<(u64, bool, &[u8])> {
    let mut columns = line.splitn(9, |byte| *byte == b'\t');
    let mut number = |skip: usize| -> Option<i64> {
        let text = std::str::from_utf8(columns.nth(skip)?).ok()?;
        text.trim().parse().ok()
    };
    let seq = u64::try_from(number(0)?).ok()?;
    let exit = number(5)?;
    let signal = number(0)?;
    Some((seq, exit == 0 && signal == 0, columns.next()?))
}

fn key(command: &[u8]) -> Key {
    Sha256::digest(command).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::output::Output;
    use super::super::record::{CommandResult, JobError};
    use super::*;

    /// Ends a command with this exit code or signal.
    fn record(seq: u64, text: &str, exit_code: Option<i32>, signal: Option<i32>) -> JobRecord {
        let mut job = CommandJob::shell(text);
        job.seq = seq;
        let ok = exit_code == Some(0);
        JobRecord {
            status: if ok {
                JobStatus::Completed
            } else {
                JobStatus::Failed
            },
            result: Some(CommandResult {
                exit_code,
                signal,
                start: Timestamp(1_795_291_315_786),
                duration: Duration::from_millis(9),
                stdout: Output::default(),
                stderr: Output::default(),
            }),
            error: (!ok).then(|| JobError::new(FailureKind::Exit, "")),
            ..JobRecord::pending(Arc::new(job))
        }
    }

    fn open(path: &Path, failed_again: bool) -> JobLog {
        JobLog::open(path, failed_again).unwrap()
    }

    fn skipped(log: &JobLog, texts: &[&str]) -> Vec<bool> {
        let mut finished = log.finished();
        let taken = texts
            .iter()
            .map(|text| finished.take(&CommandJob::shell(*text)));
        taken.collect()
    }

    #[test]
    fn lines_are_those_of_gnu_parallel() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = open(&path, false);
        let mut records = [
            record(2, "false", Some(1), None),
            record(4, "kill -9 $$", None, Some(9)),
            record(5, "echo a \"x\ny\"", Some(0), None),
            record(7, "sleep 5", None, Some(15)),
            record(6, "trap '' TERM", None, Some(9)),
            record(8, "nosuch", None, None),
            record(9, "sleep 9", None, Some(15)),
        ];
        for late in &mut records[3..5] {
            late.error = Some(JobError::new(FailureKind::Timeout, ""));
        }
        records[5].result = None;
        records[5].error = Some(JobError::new(FailureKind::NotFound, ""));
        records[6].status = JobStatus::Cancelled;
        records
            .iter()
            .for_each(|record| log.append(record).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let start = "\t:\t1795291315.786\t     0.009\t0\t0";
        assert_eq!(lines[0].as_bytes(), HEADER);
        assert_eq!(lines[1], format!("2{start}\t1\t0\tfalse"));
        assert_eq!(lines[2], format!("4{start}\t0\t9\tkill -9 $$"));
        assert_eq!(lines[3], format!("5{start}\t0\t0\techo a \"x\0y\""));
        assert_eq!(lines[4], format!("7{start}\t-1\t15\tsleep 5"));
        assert_eq!(lines[5], format!("6{start}\t-1\t9\ttrap '' TERM"));
        assert!(lines[6].ends_with("\t127\t0\tnosuch"), "{}", lines[6]);
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn commands_are_matched_by_their_text_at_any_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = open(&path, false);
        for (seq, text, exit) in [
            (1, "a", Some(0)),
            (2, "b", Some(1)),
            (3, "a", Some(0)),
            (4, "c\nd", Some(0)),
            (5, "e", Some(1)),
            // It was run again and succeeded.
            (5, "e", Some(0)),
            // The system does not report how it ended.
            (6, "held", None),
        ] {
            log.append(&record(seq, text, exit, None)).unwrap();
        }
        drop(log);
        let script = ["c\nd", "x", "a", "b", "a", "a", "e", "held"];
        for (failed_again, mut wanted) in [
            (false, [true, false, true, true, true, false, true, true]),
            (true, [true, false, true, false, true, false, true, false]),
        ] {
            let log = open(&path, failed_again);
            assert_eq!(skipped(&log, &script), wanted);
            let mut finished = log.finished();
            assert!(finished.take(&CommandJob::shell("e")));
            wanted[6] = false;
            let left = wanted.iter().filter(|skipped| **skipped).count();
            assert_eq!(finished.left(), left as u64);
        }
    }

    #[test]
    fn a_truncated_line_is_removed_and_other_files_are_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = open(&path, false);
        log.append(&record(1, "a", Some(0), None)).unwrap();
        assert!(JobLog::open(&path, false).is_err(), "it is locked");
        drop(log);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}2\t:\t17952")).unwrap();
        let mut log = open(&path, false);
        assert_eq!(skipped(&log, &["a"]), [true]);
        log.append(&record(2, "b", Some(0), None)).unwrap();
        let mended = fs::read_to_string(&path).unwrap();
        assert!(mended.starts_with(&whole) && mended.lines().count() == 3);
        let diary = folder.path().join("diary");
        for (theirs, line) in [
            ("dear diary\n", 1),
            ("{\"key\": 1}", 1),
            (&format!("{whole}end\n"), 3),
        ] {
            fs::write(&diary, theirs).unwrap();
            let error = JobLog::open(&diary, false).err().unwrap();
            let why = format!("no line of a job log in its line {line}");
            assert!(error.message().contains(&why), "{error}");
            assert_eq!(fs::read_to_string(&diary).unwrap(), theirs);
        }
    }
}
