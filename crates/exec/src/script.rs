//! Commands read from scripts and lists, one per line, in the formats that people and other systems use.

use std::borrow::Borrow;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};
use std::iter;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use batchwright::Error;
use batchwright::unstable::named_file;

use super::record::CommandJob;
use super::template::Template;
use super::words::{ShellText, ends_escaped, split};
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
struct Input {
    /// The file, for messages and records; `None` for words.
    name: Option<PathBuf>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// With its state if it is read twice.
    File(File, Option<State>),
    /// Words, separated by NUL bytes.
    List(Vec<u8>),
}

#[derive(Debug, Clone, Default)]
enum Form {
    #[default]
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

    /// These words, each in place of a line.
    pub fn list<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Self {
        let words = words.into_iter().map(Into::into).map(OsString::into_vec);
        Self::of(vec![Input {
            name: None,
            source: Source::List(words.flat_map(|word| [word, vec![0]].concat()).collect()),
        }])
    }

    fn of(inputs: Vec<Input>) -> Self {
        Self {
            inputs,
            reader: Reader::default(),
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
        let mut total = 0;
        let is_read_twice = |input: &&Input| !matches!(input.source, Source::File(_, None));
        let twice = self.inputs.iter().filter(is_read_twice);
        for job in jobs(twice.clone(), self.reader.clone()) {
            each(&job?);
            total += 1;
        }
        Ok((twice.count() == self.inputs.len()).then_some(total))
    }
}

/// The commands, one after the other. Nothing that follows an error is of use.
impl IntoIterator for Commands {
    type Item = Result<CommandJob, Error>;
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + Send>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(jobs(self.inputs.into_iter(), self.reader))
    }
}

fn jobs<I: Borrow<Input>>(
    mut inputs: impl Iterator<Item = I>,
    mut reader: Reader,
) -> impl Iterator<Item = Result<CommandJob, Error>> {
    let mut lines = None;
    let mut read = move || {
        loop {
            if let Some(lines) = &mut lines
                && let Some(job) = reader.next(lines)?
            {
                return Ok(Some(job));
            }
            let Some(input) = inputs.next() else {
                return Ok(None);
            };
            lines = Some(input.borrow().lines(reader.nul)?);
        }
    };
    iter::from_fn(move || read().transpose())
}

impl Input {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let open = || {
            if path == Path::new("-") {
                let stdin = io::stdin().as_fd().try_clone_to_owned()?;
                return Ok(Source::File(stdin.into(), None));
            }
            let file = named_file::input(&path)?;
            let state = state(&file)?;
            Ok(Source::File(file, state))
        };
        Ok(Self {
            source: open().map_err(|why| unreadable(Some(&path), &why))?,
            name: Some(path),
        })
    }

    /// Its lines from the beginning; those of a stream only once.
    fn lines(&self, nul: bool) -> Result<Lines, Error> {
        let name = self.name.clone();
        let source: Box<dyn BufRead + Send> = match &self.source {
            Source::List(words) => Box::new(Cursor::new(words.clone())),
            Source::File(file, before) => {
                let again = || {
                    let mut file = file.try_clone()?;
                    if before.is_some() {
                        file.rewind()?;
                        if state(&file)? != *before {
                            return Err(io::Error::other(
                                "it was changed after it had been checked; nothing more of it is run",
                            ));
                        }
                    }
                    Ok(file)
                };
                let file = again().map_err(|why| unreadable(name.as_deref(), &why))?;
                Box::new(BufReader::with_capacity(64 * 1024, file))
            }
        };
        Ok(Lines {
            nul: nul || name.is_none(),
            name,
            source,
            number: 0,
        })
    }
}

/// Length and modification time of a regular file.
type State = (u64, Option<SystemTime>);

fn state(file: &File) -> io::Result<Option<State>> {
    let about = file.metadata()?;
    if about.is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    let state = (about.len(), about.modified().ok());
    Ok(about.is_file().then_some(state))
}

/// Converts lines to commands, and numbers them.
#[derive(Debug, Clone, Default)]
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
            let made = self.job(line, lines.name.is_none());
            let made = made.map_err(|why| lines.fault(number, &why))?;
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
        let mut shell = ShellText::default();
        shell.read(text);
        let more = match shell.open.first() {
            Some(open) if *open != b'\n' => {
                format!("the quote {} is not closed on its line", char::from(*open))
            }
            _ if !self.nul && shell.unsure && begins_document(text) => {
                "after `<<`, the lines of a here-document would be commands of their own".to_owned()
            }
            _ => return Ok(()),
        };
        Err(format!(
            "{more}: put it into a script, or separate commands by NUL bytes (-0)"
        ))
    }

    fn job(&self, line: Vec<u8>, is_word: bool) -> Result<Option<CommandJob>, String> {
        match &self.form {
            Form::Arguments(_) if line.is_empty() && !is_word => Ok(None),
            Form::Arguments(template) => {
                if line.contains(&0) {
                    return Err("a NUL byte, which no argument can hold: use -0".to_owned());
                }
                Ok(Some(template.job(&line, self.read + 1)))
            }
            Form::ShellCommands => {
                let blank = |line: &[u8]| matches!(line.trim_ascii().first(), None | Some(b'#'));
                if line.split(|byte| *byte == b'\n').all(blank) {
                    return Ok(None);
                }
                let text = trimmed(&line);
                self.check_shell(text)?;
                Ok(Some(CommandJob::shell(OsString::from_vec(text.to_vec()))))
            }
            Form::Commands => {
                let words = split(&line)?.into_iter().map(OsString::from_vec);
                let mut job = CommandJob::of_words(words.collect());
                job.text = Some(trimmed(&line).to_vec());
                Ok((!job.command.is_empty()).then_some(job))
            }
        }
    }
}

/// Whether a `<<` is in a text, and not only `<<<`.
fn begins_document(text: &[u8]) -> bool {
    text.chunk_by(|a, b| a == b)
        .any(|run| run.starts_with(b"<<") && run.len() != 3)
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
        let mut shell = ShellText::default();
        let mut joined = false;
        loop {
            let from = line.len();
            let room = LONGEST_LINE.saturating_sub(from as u64) + 1;
            let read = (&mut self.source).take(room).read_until(end, &mut line);
            let read = read.map_err(|why| unreadable(self.name.as_deref(), &why))?;
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
            line.pop_if(|byte| *byte == end);
            if self.nul {
                return Ok(Some((first, line)));
            }
            if self.number == 1 && line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
            if self.number == 1 && matches!(line[..], [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
                return Err(self.fault(1, "the file is UTF-16: save it as UTF-8"));
            }
            if line.len() > from && line.last() == Some(&b'\r') {
                line.pop();
            }
            joined = continued && ends_escaped(&line[from..]);
            if joined {
                line.pop();
                shell.read(&line[from..]);
                joined = !matches!(shell.open.last(), Some(b'\'' | b'\n'));
                if joined {
                    continue;
                }
                line.push(b'\\');
            }
            return Ok(Some((first, line)));
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

fn unreadable(path: Option<&Path>, why: &io::Error) -> Error {
    let path = path.unwrap_or(Path::new("-")).display();
    invalid(format!("cannot read {path}: {why}"))
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
