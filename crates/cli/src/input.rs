//! The sources of prompts: files, folders of source files, standard input, or a named pipe.

use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::files::{ColumnRole, PromptSettings};
use batchwright::sources::{FileScanner, LeftOut, SymlinkPolicy};
use batchwright::{Context, Error, ErrorKind, Prompts, Request};

use super::args::input::{BadRows, FolderArgs, InputArgs};
use super::background::{Background, Event, interrupted};
use super::display;
use super::exit::{About, Refusal};
use super::format::{count, number_of};
use super::sanitize::one_line;
use super::settings::refused;
use super::signals::Session;
use batchwright::unstable::{Optional, named_file};

/// This column name means that items have no own ids.
const NO_IDS: &str = "none";

/// This column name means that nothing of the rows is kept.
const NOTHING: &str = "none";

/// Rows up to this size keep all their columns, unless `--keep` says what is kept.
pub const SMALL_ROW_BYTES: usize = 4 << 10;

impl InputArgs {
    /// The only input, if it is standard input, a pipe or similar.
    fn stream(&self) -> Option<&Path> {
        match self.files.as_slice() {
            [path] if is_stream(path) => Some(path),
            _ => None,
        }
    }

    /// True if it can be read only once, for example a pipe.
    pub fn is_stream(&self) -> bool {
        self.stream().is_some()
    }

    /// Adds how prompts are read, and the folder for temporary files, to the settings.
    pub fn settings(
        &self,
        settings: PromptSettings,
        folder: Option<PathBuf>,
    ) -> Result<PromptSettings, Refusal> {
        let settings = settings
            .keep_fields(self.keep.iter().filter(|name| *name != NOTHING).cloned())
            .skip_bad_rows(self.bad_rows == BadRows::Skip);
        let settings = self.with_folder(settings)?;
        let settings = settings
            .set(self.root.as_ref(), PromptSettings::root)
            .set(self.delimiter, PromptSettings::delimiter)
            .set(self.quotes, PromptSettings::quotes)
            .set(self.sheet.as_ref(), PromptSettings::sheet)
            .set(folder, PromptSettings::spool_folder)
            .set(self.format.as_ref(), |settings, format| {
                let settings = settings.input_format(format.form);
                let settings = settings.without_header(format.without_header);
                settings.set(format.list.as_ref(), PromptSettings::list)
            });
        let named = |settings: PromptSettings, (role, name): &(ColumnRole, String)| match role {
            ColumnRole::Id if name == NO_IDS => settings.without_ids(true),
            role => settings.column(*role, name),
        };
        let settings = self.column.iter().fold(settings, named);
        match &self.encoding {
            Some(encoding) => settings.encoding(encoding).map_err(refused),
            None => Ok(settings),
        }
    }

    /// Adds the selection and splitting of files in folders; rejects flags for that if no input is a folder.
    fn with_folder(&self, settings: PromptSettings) -> Result<PromptSettings, Refusal> {
        if self.files.iter().any(|path| path.is_dir()) {
            let scanner = scanner(&self.pattern, &self.folder);
            let split = self.split.unwrap_or_default();
            return Ok(settings.scanner(scanner).split(split));
        }
        let selects = self.split.is_some() || !self.pattern.is_empty();
        if selects || self.folder != FolderArgs::default() {
            let why = "--split, --pattern and their like choose among the files of a folder, and no input is one";
            return Err(Refusal::usage(why));
        }
        Ok(settings)
    }

    /// Opens and checks the prompts. A stream is read to its end first, and stored on the disk while the program runs.
    pub fn open(&self, settings: &PromptSettings, session: &Session) -> Result<Prompts, Refusal> {
        let prompts = match self.stream() {
            Some(path) => read_stream(path, settings, session)?,
            None => {
                if let Some(path) = self.files.iter().find(|path| is_stream(path)) {
                    let path = path.display();
                    let why = "standard input or a pipe must be the only input; save it as a file";
                    return Err(Refusal::usage(format!("{path}: {why}")).about(About::Input));
                }
                let checking = |done, total| session.display.checking(done, total);
                let prompts = Prompts::open_all(&self.files, settings, &session.ctx, &checking);
                session.display.clear();
                read(prompts, session)?
            }
        };
        left_out_lines(prompts.left_out(), "--log-level debug names all")
            .iter()
            .for_each(display::note);
        if prompts.with_answer() > 0 {
            let all = number_of(prompts.items(), "item|items ends|end");
            display::note(format!(
                "{} of {all} with a message of the assistant, which is sent too; to leave it out: --column 'messages={}[:-1]'",
                count(prompts.with_answer()),
                self.column_of(ColumnRole::Messages).unwrap_or("messages"),
            ));
        }
        Ok(prompts)
    }

    /// The column that the user named for the role.
    pub fn column_of(&self, role: ColumnRole) -> Option<&str> {
        let named = self.column.iter().rfind(|(other, _)| *other == role);
        named.map(|(_, name)| name.as_str())
    }

    /// Its name for people if there is no `--name`.
    pub fn short(&self) -> String {
        let (first, more) = (&self.files[0], self.files.len() - 1);
        // `.` and `..` are named after their real folders.
        let placed = first.is_dir().then(|| first.canonicalize().ok()).flatten();
        let first = placed.as_ref().unwrap_or(first);
        match (first.file_name(), more) {
            (Some(name), 0) if first != Path::new("-") => name.to_string_lossy().into_owned(),
            (Some(name), 1..) => format!("{} and {more} more", name.to_string_lossy()),
            _ => "standard input".to_owned(),
        }
    }

    /// Its absolute paths, for people.
    pub fn whole(&self) -> String {
        let paths: Vec<String> = self.files.iter().map(|path| whole(path)).collect();
        paths.join(", ")
    }
}

/// The absolute path, for people.
pub fn whole(path: &Path) -> String {
    let whole = path.canonicalize().or_else(|_| std::path::absolute(path));
    let whole = whole.unwrap_or_else(|_| path.to_owned());
    whole.to_string_lossy().into_owned()
}

fn is_stream(path: &Path) -> bool {
    let other = |found: std::fs::Metadata| !found.is_file() && !found.is_dir();
    path == Path::new("-") || std::fs::metadata(path).is_ok_and(other)
}

/// The thread that reads a stream.
const SOURCE_THREAD: &str = "batchwright-source";

/// After this time without input, a line reports that the run waits for it.
const SILENCE: Duration = Duration::from_millis(500);

/// Reads standard input, or the pipe at this path, on another thread: the read may block when a signal comes.
fn read_stream(
    path: &Path,
    settings: &PromptSettings,
    session: &Session,
) -> Result<Prompts, Refusal> {
    let (path, settings, ctx) = (path.to_owned(), settings.clone(), session.ctx.clone());
    let reading = move || {
        if path == Path::new("-") {
            return Prompts::from_reader(io::stdin(), &settings, &ctx);
        }
        let name = path.display().to_string();
        let pipe = named_file::input(&path).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                format!("{name}: cannot be read: {error}"),
            )
        })?;
        Prompts::from_named(&name, pipe, &settings, &ctx)
    };
    let reader = Background::spawn(SOURCE_THREAD, iter::once_with(reading), &session.ctx)?;
    let mut patience = Some(SILENCE);
    loop {
        match reader.next(patience.take()) {
            Event::Item(prompts) => return read(prompts, session),
            Event::Silence => display::note("waiting for the end of the input"),
            Event::Cancelled => return Err(session.interrupted()),
            Event::Ended => {
                let error = Error::new(ErrorKind::Panic, "the input is no longer read");
                return read(Err(error), session);
            }
        }
    }
}

fn read(prompts: Result<Prompts, Error>, session: &Session) -> Result<Prompts, Refusal> {
    prompts.map_err(|error| match error.kind() {
        ErrorKind::Cancelled => session.interrupted(),
        _ => {
            let is_empty = error
                .message()
                .contains("the fields of the template all empty");
            let hint =
                "--bad-rows skip fails only such rows, without sending them, and sends the others";
            Refusal::usage(error.message())
                .about(About::Input)
                .when(is_empty, |refusal| refusal.hint(hint))
        }
    })
}

/// Requests, up to a signal.
pub fn until_cancelled(
    requests: impl Iterator<Item = Result<Request, Error>>,
    ctx: &Context,
) -> impl Iterator<Item = Result<Request, Error>> {
    requests.map(|request| {
        if ctx.is_cancelled() {
            Err(interrupted())
        } else {
            request
        }
    })
}

/// Finds the selected files.
pub fn scanner(patterns: &[String], args: &FolderArgs) -> FileScanner {
    let links = args.follow.then_some(SymlinkPolicy::Follow);
    let scanner = FileScanner::new()
        .hidden(args.hidden)
        .ignore_files(!args.no_ignore)
        .set(links, FileScanner::symlinks)
        .set(args.max_size, FileScanner::max_file_size);
    patterns.iter().fold(scanner, FileScanner::pattern)
}

/// Messages about skipped files; `all` is the command that lists them.
pub fn left_out_lines(left_out: &LeftOut, all: &str) -> Vec<String> {
    if left_out.count() == 0 {
        return Vec::new();
    }
    let files = number_of(left_out.count(), "file|files is|are");
    let mut lines = vec![format!("{files} left out: {left_out}")];
    for file in &left_out.first {
        let why = file
            .skip_reason
            .as_ref()
            .map_or_else(String::new, ToString::to_string);
        lines.push(format!("  {}: {}", one_line(&file.name()), one_line(&why)));
    }
    if left_out.count() > left_out.first.len() as u64 {
        lines.push(format!("  and others; {all}"));
    }
    lines
}
