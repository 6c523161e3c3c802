//! What prompts are read from: files, standard input, or a pipe by its name.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::{Context, Error, ErrorKind, InputFormat, PromptSettings, Prompts};
use crossbeam_channel::{after, bounded, select};

use super::args::input::{BadRows, Format, InputArgs};
use super::display::Display;
use super::exit::{About, Refusal};

impl InputArgs {
    /// The only input, if it is standard input, a pipe or the like.
    fn stream(&self) -> Option<&Path> {
        match self.files.as_slice() {
            [path] if is_stream(path) => Some(path),
            _ => None,
        }
    }

    /// True when it can be read but once.
    pub fn is_stream(&self) -> bool {
        self.stream().is_some()
    }

    /// The settings of prompts, with how they are read.
    pub fn settings(&self, settings: PromptSettings) -> PromptSettings {
        let mut settings = settings
            .ignore_fields(self.ignore_fields.iter().cloned())
            .skip_bad_rows(self.bad_rows == BadRows::Skip);
        if let Some(column) = &self.id_column {
            settings = settings.id_column(column);
        }
        if let Some(delimiter) = self.delimiter {
            settings = settings.delimiter(delimiter);
        }
        match self.format {
            None => settings,
            Some(format) => settings.input_format(match format {
                Format::Jsonl => InputFormat::Jsonl,
                Format::Json => InputFormat::Json,
                Format::Csv => InputFormat::Csv,
                Format::Tsv => InputFormat::Tsv,
                Format::Txt => InputFormat::Text,
            }),
        }
    }

    /// Checks files whole; of a stream nothing is read yet.
    pub fn open(
        &self,
        settings: &PromptSettings,
        ctx: &Context,
        display: &Display,
    ) -> Result<Prompts, Error> {
        if let Some(path) = self.stream() {
            return Ok(match path == Path::new("-") {
                true => Prompts::from_reader(io::stdin(), settings),
                false => {
                    let name = path.display().to_string();
                    Prompts::from_named(name, Pipe::Closed(path.to_owned()), settings)
                }
            });
        }
        if let Some(path) = self.files.iter().find(|path| is_stream(path)) {
            let why = format!(
                "{}: standard input or a pipe goes with no other input; save it as a file",
                path.display()
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Prompts::open_all(&self.files, settings, ctx, &|done, total| {
            display.checking(done, total);
        })
    }

    /// What people call it when nobody has named it.
    pub fn short(&self) -> String {
        let (first, more) = (&self.files[0], self.files.len() - 1);
        match (first.file_name(), more) {
            (Some(name), 0) if first != Path::new("-") => name.to_string_lossy().into_owned(),
            (Some(name), 1..) => format!("{} and {more} more", name.to_string_lossy()),
            _ => "standard input".to_owned(),
        }
    }

    /// Its paths as they hold in every folder, for people.
    pub fn whole(&self) -> String {
        let paths: Vec<String> = self.files.iter().map(|path| whole(path)).collect();
        paths.join(", ")
    }

    /// What is said of an input with nothing in it.
    pub fn nothing(&self) -> String {
        match self.stream().filter(|path| *path != Path::new("-")) {
            Some(path) => format!("{} held no prompts", path.display()),
            None => "standard input held no prompts".to_owned(),
        }
    }
}

/// A path that holds in every folder, for people.
pub fn whole(path: &Path) -> String {
    let whole = path.canonicalize().or_else(|_| std::path::absolute(path));
    let whole = whole.unwrap_or_else(|_| path.to_owned());
    whole.to_string_lossy().into_owned()
}

fn is_stream(path: &Path) -> bool {
    let other = |found: std::fs::Metadata| !found.is_file() && !found.is_dir();
    path == Path::new("-") || std::fs::metadata(path).is_ok_and(other)
}

/// A pipe by its path. It is opened by the first read, since that waits for its writer.
enum Pipe {
    Closed(PathBuf),
    Open(File),
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Closed(path) = self {
            *self = Self::Open(File::open(path)?);
        }
        match self {
            Self::Open(file) => file.read(buffer),
            Self::Closed(_) => Ok(0),
        }
    }
}

/// Takes all of a stream in, and keeps it in that folder while the program runs; `None` when that was
/// interrupted.
pub fn on_disk(prompts: Prompts, folder: &Path, ctx: &Context) -> Result<Option<Prompts>, Refusal> {
    let (folder, reading) = (folder.to_owned(), ctx.clone());
    let read = aside(move || prompts.on_disk(&folder, &reading), ctx, || {})?;
    match read {
        Some(prompts) if prompts.items() == Some(0) => {
            Err(Refusal::usage("the input held no prompts"))
        }
        read => Ok(read),
    }
}

/// How long nothing comes of a stream before that is said.
const SILENCE: Duration = Duration::from_millis(500);

/// Waits for the first prompt of a stream, and refuses one that begins with none; `None` when that was
/// interrupted.
pub fn first_checked(
    prompts: Prompts,
    ctx: &Context,
    waiting: impl Fn(),
) -> Result<Option<Prompts>, Refusal> {
    aside(move || prompts.first_checked(), ctx, waiting)
}

fn aside(
    reading: impl FnOnce() -> Result<Prompts, Error> + Send + 'static,
    ctx: &Context,
    waiting: impl Fn(),
) -> Result<Option<Prompts>, Refusal> {
    let (done, read) = bounded(1);
    // On another thread, so that a signal is heard while the read blocks.
    std::thread::Builder::new()
        .name("batchwright-source".to_owned())
        .spawn(move || {
            let _ = done.send(reading());
        })
        .map_err(|e| Refusal::could_not_run(format!("cannot start a thread: {e}")))?;
    let (stop, stopped) = bounded(1);
    let _watch = ctx.on_cancel(move || {
        let _ = stop.try_send(());
    });
    let silence = after(SILENCE);
    let prompts = loop {
        select! {
            recv(stopped) -> _ => return Ok(None),
            recv(read) -> prompts => break prompts,
            recv(silence) -> _ => waiting(),
        }
    };
    let panicked = || Error::new(ErrorKind::Panic, "the input is no longer read");
    match prompts.unwrap_or_else(|_| Err(panicked())) {
        Ok(prompts) => Ok(Some(prompts)),
        Err(error) if error.kind() == ErrorKind::Cancelled => Ok(None),
        Err(error) => Err(Refusal::usage(error.message()).about(About::Input)),
    }
}
