//! Commands read from scripts and lists, one per line, in the formats that people and other systems use.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use batchwright::Error;

use super::record::CommandJob;
use super::template::Template;
use super::words::{ends_escaped, open_quote, split};
use crate::invalid;

/// Maximum length of a line, including continuation lines: no system accepts longer commands.
const LONGEST_LINE: u64 = 2 * 1024 * 1024;

/// The source of commands: scripts with one command per line, or lists of arguments for a [`Template`].
///
/// In scripts, blank lines and comments (`#`) are skipped, a backslash at the end of a line continues it, and words
/// are split as in a POSIX shell. No shell reads the line: syntax that only a shell could execute, such as `|`,
/// `>`, `$VAR` or an unquoted `*`, is an error that names file and line, unless [`shell`](Self::shell) is set. In
/// lists, each line is one unchanged argument, and empty lines are skipped. Both accept Windows line ends and a
/// byte order mark; bytes that are not UTF-8 are kept.
///
/// ```no_run
/// use batchwright_exec::{CommandRunner, Commands};
/// let commands = Commands::files(["jobs.txt"])?;
/// let total = commands.check(|_| {})?;
/// let report = CommandRunner::new().total(total).run_commands(commands, |record| {
///     println!("{} {}", record.status, record.job.text());
///     std::ops::ControlFlow::Continue(())
/// })?;
/// println!("{} failed", report.failed);
/// # Ok::<(), batchwright::Error>(())
/// ```
#[derive(Debug)]
pub struct Commands {
    inputs: Vec<Input>,
    reader: Reader,
}

#[derive(Debug)]
enum Input {
    File {
        path: PathBuf,
        file: File,
        /// Length and modification time of a regular file, which is read twice.
        state: Option<(u64, Option<SystemTime>)>,
    },
    Stdin,
    /// Words, separated by NUL bytes.
    List(Vec<u8>),
}

#[derive(Debug, Clone)]
enum Form {
    Commands,
    ShellCommands,
    Arguments(Arc<Template>),
}

impl Commands {
    /// The lines of these files, one file after the other. `-` is standard input.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub fn files<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Result<Self, Error> {
        let inputs = paths.into_iter().map(|path| Input::open(path.into()));
        Ok(Self::of(inputs.collect::<Result<_, _>>()?))
    }

    /// The lines of standard input.
    pub fn stdin() -> Self {
        Self::of(vec![Input::Stdin])
    }

    /// These words, each in place of a line.
    pub fn list<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Self {
        let words = words.into_iter().map(Into::into).map(OsString::into_vec);
        Self::of(vec![Input::List(words.collect::<Vec<_>>().join(&0))])
    }

    fn of(inputs: Vec<Input>) -> Self {
        Self {
            inputs,
            reader: Reader {
                form: Form::Commands,
                nul: false,
                read: 0,
            },
        }
    }

    /// Uses each line as an argument for this command, instead of as a command.
    pub fn template(mut self, template: Template) -> Self {
        self.reader.form = Form::Arguments(Arc::new(template));
        self
    }

    /// Whether `sh -c` runs each line. Default: no. For a template, this is set when the template is created.
    pub fn shell(mut self, yes: bool) -> Self {
        if yes && matches!(self.reader.form, Form::Commands) {
            self.reader.form = Form::ShellCommands;
        }
        self
    }

    /// Whether NUL bytes separate the lines, as in the output of `find -print0`. Default: no.
    pub fn nul_separated(mut self, yes: bool) -> Self {
        self.reader.nul = yes;
        self
    }

    /// Reads regular files completely, so that a faulty line is detected before anything runs, and passes each command
    /// to `each`. Returns the number of commands; `None` if a source can be read only once, which is then not read.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](batchwright::ErrorKind::Invalid) for the first line that is not a command, with file and line; or if a file cannot be
    /// read.
    pub fn check(&self, mut each: impl FnMut(&CommandJob)) -> Result<Option<u64>, Error> {
        let mut reader = self.reader.clone();
        let mut total = Some(0);
        for input in &self.inputs {
            let Some(mut lines) = input.lines(false, reader.nul)? else {
                total = None;
                continue;
            };
            while let Some(job) = reader.next(&mut lines)? {
                each(&job);
                total = total.map(|n| n + 1);
            }
        }
        Ok(total)
    }
}

/// The commands, one after the other. An error is the last item.
impl IntoIterator for Commands {
    type Item = Result<CommandJob, Error>;
    type IntoIter = Jobs;

    fn into_iter(self) -> Jobs {
        Jobs {
            reader: self.reader,
            inputs: self.inputs.into_iter(),
            lines: None,
            ended: false,
        }
    }
}

impl Input {
    fn open(path: PathBuf) -> Result<Self, Error> {
        if path == Path::new("-") {
            return Ok(Self::Stdin);
        }
        let opened = File::open(&path).and_then(|file| {
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::Error::other("it is a folder"));
            }
            let state = (metadata.len(), metadata.modified().ok());
            Ok((file, metadata.is_file().then_some(state)))
        });
        let (file, state) = opened.map_err(|why| unreadable(&path, &why))?;
        Ok(Self::File { path, file, state })
    }

    /// Its lines from the beginning; `None` for a source that can be read only once, unless it is `taken`.
    fn lines(&self, taken: bool, nul: bool) -> Result<Option<Lines>, Error> {
        let (name, source): (_, Box<dyn BufRead + Send>) = match self {
            Self::Stdin if taken => (
                Some(PathBuf::from("-")),
                Box::new(BufReader::new(io::stdin())),
            ),
            Self::File { state: None, .. } if !taken => return Ok(None),
            Self::Stdin => return Ok(None),
            Self::File { path, file, state } => {
                let again = file.try_clone().and_then(|mut file| {
                    if state.is_some() {
                        file.rewind()?;
                    }
                    let metadata = file.metadata()?;
                    let same = state
                        .is_none_or(|state| state == (metadata.len(), metadata.modified().ok()));
                    Ok((file, same))
                });
                let (file, same) = again.map_err(|why| unreadable(path, &why))?;
                if !same {
                    return Err(invalid(format!(
                        "{} was changed after it had been checked; nothing more of it is run",
                        path.display()
                    )));
                }
                (
                    Some(path.clone()),
                    Box::new(BufReader::with_capacity(64 * 1024, file)),
                )
            }
            Self::List(words) => (None, Box::new(Cursor::new(words.clone()))),
        };
        Ok(Some(Lines {
            nul: nul || name.is_none(),
            name,
            source,
            number: 0,
        }))
    }
}

/// [`Commands`] while they are read.
pub struct Jobs {
    reader: Reader,
    inputs: std::vec::IntoIter<Input>,
    lines: Option<Lines>,
    ended: bool,
}

impl Jobs {
    fn read(&mut self) -> Result<Option<CommandJob>, Error> {
        loop {
            if let Some(lines) = &mut self.lines
                && let Some(job) = self.reader.next(lines)?
            {
                return Ok(Some(job));
            }
            let Some(input) = self.inputs.next() else {
                return Ok(None);
            };
            self.lines = input.lines(true, self.reader.nul)?;
        }
    }
}

impl Iterator for Jobs {
    type Item = Result<CommandJob, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Converts lines to commands, and numbers them.
#[derive(Debug, Clone)]
struct Reader {
    form: Form,
    nul: bool,
    read: u64,
}

impl Reader {
    fn next(&mut self, lines: &mut Lines) -> Result<Option<CommandJob>, Error> {
        loop {
            let continued = !matches!(self.form, Form::Arguments(_));
            let Some((number, line)) = lines.next(continued)? else {
                return Ok(None);
            };
            let made = self.job(line).map_err(|why| lines.fault(number, &why))?;
            if let Some(mut job) = made {
                self.read += 1;
                job.seq = self.read;
                if let Some(name) = &lines.name {
                    job.file = Some(name.clone());
                    job.line = Some(number);
                }
                return Ok(Some(job));
            }
        }
    }

    /// Rejects a line for a shell if the shell would need the following lines to complete it, because each of those
    /// would be run as a separate command.
    fn check_shell(&self, text: &[u8]) -> Result<(), String> {
        if text.contains(&0) {
            return Err("the line has a NUL byte".to_owned());
        }
        let has = |part: &[u8]| text.windows(part.len()).any(|found| found == part);
        let more = match open_quote(text) {
            Some(open) if open != b'#' => {
                format!("the quote {} is not closed on its line", char::from(open))
            }
            _ if !self.nul && has(b"<<") && !has(b"<<<") && !has(b"((") => {
                "the lines of a here-document would be commands of their own".to_owned()
            }
            _ => return Ok(()),
        };
        Err(format!(
            "{more}: put it into a script, or separate commands by NUL bytes (-0)"
        ))
    }

    fn job(&self, line: Vec<u8>) -> Result<Option<CommandJob>, String> {
        match &self.form {
            Form::Arguments(_) if line.is_empty() => Ok(None),
            Form::Arguments(template) => {
                if line.contains(&0) {
                    return Err("a NUL byte, which no argument can hold: use -0".to_owned());
                }
                Ok(Some(template.job(&line, self.read + 1)))
            }
            Form::ShellCommands => {
                let blank = |line: &[u8]| {
                    let line = line.trim_ascii_start();
                    line.is_empty() || line.starts_with(b"#")
                };
                if line.split(|byte| *byte == b'\n').all(blank) {
                    return Ok(None);
                }
                let text = trimmed(&line);
                self.check_shell(text)?;
                Ok(Some(CommandJob::shell(OsString::from_vec(text.to_vec()))))
            }
            Form::Commands => {
                let words = split(&line)?;
                if words.is_empty() {
                    return Ok(None);
                }
                let mut job =
                    CommandJob::of_words(words.into_iter().map(OsString::from_vec).collect());
                job.text = Some(trimmed(&line).to_vec());
                Ok(Some(job))
            }
        }
    }
}

/// The line without surrounding blanks, unless the last one is escaped.
fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.trim_ascii_start();
    let end = line.trim_ascii_end().len();
    let escapes = usize::from(ends_escaped(&line[..end]));
    &line[..line.len().min(end + escapes)]
}

struct Lines {
    /// The file, for messages and records.
    name: Option<PathBuf>,
    source: Box<dyn BufRead + Send>,
    nul: bool,
    number: u64,
}

impl Lines {
    /// The next line without its line end, with the number of its first physical line. If `continued` is set, a
    /// backslash at the end joins the next line in the cases in which a shell does so: not in a comment or in single
    /// quotes.
    fn next(&mut self, continued: bool) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let end = if self.nul { 0 } else { b'\n' };
        let first = self.number + 1;
        let mut line = Vec::new();
        let mut joined = false;
        loop {
            let from = line.len();
            let room = LONGEST_LINE.saturating_sub(from as u64) + 1;
            let read = (&mut self.source).take(room).read_until(end, &mut line);
            let read = read.map_err(|why| match &self.name {
                Some(name) => unreadable(name, &why),
                None => invalid(why.to_string()),
            })?;
            if read == 0 {
                if joined {
                    line.push(b'\\');
                }
                return Ok((!line.is_empty()).then_some((first, line)));
            }
            self.number += 1;
            if line.len() as u64 > LONGEST_LINE {
                return Err(self.fault(
                    first,
                    "longer than 2 MiB, which no system takes as a command",
                ));
            }
            if line.last() == Some(&end) {
                line.pop();
            }
            if self.nul {
                return Ok(Some((first, line)));
            }
            if self.number == 1 && line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
            if self.number == 1 && (line.starts_with(b"\xff\xfe") || line.starts_with(b"\xfe\xff"))
            {
                return Err(self.fault(1, "the file is UTF-16: save it as UTF-8"));
            }
            if line.len() > from && line.last() == Some(&b'\r') {
                line.pop();
            }
            joined = continued
                && ends_escaped(&line)
                && !matches!(open_quote(&line), Some(b'\'' | b'#'));
            if !joined {
                return Ok(Some((first, line)));
            }
            line.pop();
        }
    }

    fn fault(&self, line: u64, why: &str) -> Error {
        invalid(match self.name.as_deref() {
            None => format!("argument {line}: {why}"),
            Some(name) if name == Path::new("-") => {
                format!("standard input, line {line}: {why}")
            }
            Some(name) => format!("{}, line {line}: {why}", name.display()),
        })
    }
}

fn unreadable(path: &Path, why: &io::Error) -> Error {
    invalid(format!("cannot read {}: {why}", path.display()))
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
