//! The sources of prompts: files, standard input, or a named pipe.

use std::fs::File;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::files::{PromptRequests, PromptSettings};
use batchwright::{Context, Error, ErrorKind, Prompts, Request};

use super::args::input::{BadRows, InputArgs, ReadingArgs};
use super::background::{Background, Event, interrupted};
use super::display::{self, Display};
use super::exit::{About, Early, Refusal};
use super::folder;
use super::settings::refused;
use super::signals::Session;
use batchwright::unstable::Optional;

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
        let settings = folder::settings(settings, &self.reading, &self.files)?;
        self.reading.settings(settings, folder)
    }

    /// Opens and checks the prompts. A stream is read to its end first, and stored on the disk while the program runs.
    pub fn open(&self, settings: &PromptSettings, session: &Session) -> Result<Prompts, Early> {
        let prompts = match self.stream() {
            Some(path) => read_stream(path, settings, session)?,
            None => {
                let prompts = self.checked(settings, &session.ctx, &session.display);
                session.display.clear();
                read(prompts, session)?
            }
        };
        folder::left_out_lines(&prompts)
            .iter()
            .for_each(display::note);
        Ok(prompts)
    }

    fn checked(
        &self,
        settings: &PromptSettings,
        ctx: &Context,
        display: &Display,
    ) -> Result<Prompts, Error> {
        if let Some(path) = self.files.iter().find(|path| is_stream(path)) {
            let why = format!(
                "{}: standard input or a pipe must be the only input; save it as a file",
                path.display()
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Prompts::open_all(&self.files, settings, ctx, &|done, total| {
            display.checking(done, total);
        })
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

    /// The message for an input without prompts.
    pub fn nothing(&self) -> String {
        match self.stream().filter(|path| *path != Path::new("-")) {
            Some(path) => format!("{} held no prompts", path.display()),
            None => "standard input held no prompts".to_owned(),
        }
    }
}

impl ReadingArgs {
    /// Adds how the input is read, and the folder for temporary files, to these settings.
    pub fn settings(
        &self,
        settings: PromptSettings,
        folder: Option<PathBuf>,
    ) -> Result<PromptSettings, Refusal> {
        let settings = settings
            .set(self.root.as_ref(), PromptSettings::root)
            .set(self.id_column.as_deref(), |settings, column| match column {
                NO_IDS => settings.without_ids(true),
                column => settings.id_column(column),
            })
            .set(self.delimiter, PromptSettings::delimiter)
            .set(self.quotes, PromptSettings::quotes)
            .set(self.sheet.as_ref(), PromptSettings::sheet)
            .set(folder, PromptSettings::spool_folder)
            .set(self.format, PromptSettings::input_format);
        match &self.encoding {
            Some(encoding) => settings.encoding(encoding).map_err(refused),
            None => Ok(settings),
        }
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
) -> Result<Prompts, Early> {
    let (path, settings, ctx) = (path.to_owned(), settings.clone(), session.ctx.clone());
    let reading = move || {
        if path == Path::new("-") {
            return Prompts::from_reader(io::stdin(), &settings, &ctx);
        }
        let name = path.display().to_string();
        // Opening a pipe waits for its writer.
        let pipe = File::open(&path).map_err(|error| {
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

fn read(prompts: Result<Prompts, Error>, session: &Session) -> Result<Prompts, Early> {
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
                .into()
        }
    })
}

/// Requests, up to a signal.
pub fn until_cancelled(
    requests: PromptRequests,
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
