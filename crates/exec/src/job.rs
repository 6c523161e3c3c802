//! A command to run.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::words::quote;

/// A command: its program, its arguments, and its source.
///
/// ```
/// use batchwright_exec::CommandJob;
/// let job = CommandJob::new("gzip").arg("-k").arg("a file.txt").with_id("first");
/// assert_eq!(job.text(), "gzip -k 'a file.txt'");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandJob {
    pub(super) id: Option<String>,
    /// Its position in the input, from 1; 0 before it has one.
    pub(super) seq: u64,
    pub(super) words: Vec<OsString>,
    /// The original text, if it contains more than the words.
    pub(super) text: Option<Vec<u8>>,
    pub(super) file: Option<PathBuf>,
    pub(super) line: Option<u64>,
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

    pub(super) fn of_words(words: Vec<OsString>) -> Self {
        Self {
            id: None,
            seq: 0,
            words,
            text: None,
            file: None,
            line: None,
        }
    }

    /// Adds an argument, which is passed to the program unchanged.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.words.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.words.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets its name. Default: its number in the input, from 1.
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Its name.
    pub fn id(&self) -> Cow<'_, str> {
        match &self.id {
            Some(id) => Cow::Borrowed(id),
            None => Cow::Owned(self.seq.to_string()),
        }
    }

    /// Its number in the input, from 1; 0 before it is part of a run.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The program and its arguments.
    pub fn command(&self) -> &[OsString] {
        &self.words
    }

    pub(super) fn program(&self) -> &OsStr {
        self.words
            .first()
            .map_or(OsStr::new(""), OsString::as_os_str)
    }

    /// The file it was read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The line in that file on which it begins, from 1.
    pub fn line(&self) -> Option<u64> {
        self.line
    }

    /// The command quoted for a shell. Bytes that are not UTF-8 are shown as U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text_bytes()).into_owned()
    }

    /// The same, byte for byte: the text in a job log, which identifies the command when a run is resumed.
    pub fn text_bytes(&self) -> Cow<'_, [u8]> {
        match &self.text {
            Some(text) => Cow::Borrowed(text),
            None => {
                let words = self.words.iter().map(|word| quote(word.as_encoded_bytes()));
                Cow::Owned(words.collect::<Vec<_>>().join(&b' '))
            }
        }
    }
}
