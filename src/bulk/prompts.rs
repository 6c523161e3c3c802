//! The prompts of a run: files, or a stream that was stored on the disk, all of them checked; and their requests, in order,
//! for callers that send them elsewhere.

use std::collections::HashMap;
use std::io::Read;
use std::iter::FusedIterator;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::convert::{self, plain_text};
use super::input::{Entry, FileIndex, Hooks, InputFile, NamedFile, fault, parse_alone};
use super::spool::SpoolFile;
use crate::base::{Context, Error, ErrorKind};
use crate::llm::params::RequestTask;
use crate::llm::prompt_cache::PromptPrefix;
use crate::llm::request::Request;
#[cfg(feature = "files")]
use crate::sources::LeftOut;

pub use super::input::{ColumnRole, Form as InputFormat, PromptSettings};

/// The prompts of a [`FileRun`](crate::FileRun).
pub struct Prompts {
    pub(super) input: Arc<InputFile>,
    pub(super) items: FileIndex,
    /// The common properties of requests, by class.
    pub(super) kinds: Vec<RequestKind>,
    /// The beginning of all prompts, if they have the same one, which a provider could cache.
    pub(super) prefix: Option<PromptPrefix>,
    pub(super) settings: PromptSettings,
    #[cfg(feature = "files")]
    left_out: LeftOut,
}

/// The classes of requests, created as they occur.
#[derive(Default)]
struct Classes {
    known: HashMap<Kind, u16>,
    kinds: Vec<RequestKind>,
    /// The beginning that all requests so far have in common, if there is one.
    prefix: Option<Option<PromptPrefix>>,
}

/// The model, and the fields of embeddings unless there are too many sets.
type Kind = (Option<String>, Option<Option<String>>);

impl Classes {
    /// The number of the request's class; `None` if there are too many.
    fn classify(this: &Mutex<Self>, request: &Request) -> Option<u16> {
        let mut kind = (request.model.clone(), Some(shared_fields(request)));
        let prefix = PromptPrefix::of(request);
        let seen = &mut *this.lock();
        match &mut seen.prefix {
            Some(shared) if *shared != prefix => *shared = None,
            Some(_) => {}
            first => *first = Some(prefix),
        }
        if seen.kinds.len() >= MOST_PACKED
            && !seen.known.contains_key(&kind)
            && kind.1 != Some(None)
        {
            kind.1 = None;
        }
        if let Some(class) = seen.known.get(&kind) {
            return Some(*class);
        }
        let class = u16::try_from(seen.kinds.len()).ok()?;
        seen.kinds.push(RequestKind {
            model: request.model.clone(),
            packs: kind.1.is_some(),
        });
        seen.known.insert(kind, class);
        Some(class)
    }
}

/// The common properties of the requests of a class; for embeddings also which of them share calls.
#[derive(Clone)]
pub(crate) struct RequestKind {
    /// The model that they name.
    pub model: Option<String>,
    /// Whether requests of this class share calls, if the model accepts several of them per call.
    pub packs: bool,
}

impl RequestKind {
    /// A request of the class, without its texts.
    pub(super) fn request(&self) -> Request {
        Request {
            model: self.model.clone(),
            ..Request::default()
        }
    }
}

/// Rejects repeated files: items without own ids would be billed twice.
fn refuse_twice(files: &[&Path]) -> Result<(), Error> {
    let places: Vec<_> = files.iter().map(|file| file.canonicalize()).collect();
    for (i, place) in places.iter().enumerate().skip(1) {
        let same = |other: &std::io::Result<_>| matches!((place, other), (Ok(a), Ok(b)) if a == b);
        if places[..i].iter().any(same) {
            let why = "it is named twice as an input";
            return Err(fault::of_file(files[i].display(), why));
        }
    }
    Ok(())
}

/// The fields that embedding requests of one call must have in common, in addition to the model.
fn shared_fields(request: &Request) -> Option<String> {
    let (dimensions, extra, is_text) = request.shared_by_call();
    let plain = request.task == RequestTask::Complete
        || (dimensions.is_none() && extra.is_empty() && is_text);
    (!plain).then(|| serde_json::json!([dimensions, extra, is_text]).to_string())
}

/// A class is stored in 16 bits.
const MOST_CLASSES: usize = u16::MAX as usize;

/// Maximum number of classes that differ by the fields of embeddings. Texts with further sets of fields share no calls,
/// and have one class per model.
pub(super) const MOST_PACKED: usize = MOST_CLASSES / 2;

/// The name of standard input in messages.
const STDIN: &str = "(standard input)";

/// Maximum length of a first line that shows the format of the rest.
const FIRST_LINE: u64 = 1 << 16;

impl Prompts {
    /// Opens a `.jsonl`, `.json`, `.csv`, `.tsv` or `.txt` file, which may be compressed (`.csv.gz`, `.jsonl.zst`), or
    /// a `.parquet` or `.xlsx` file (with the feature `tables`), or a folder of source files (with the feature
    /// `files`), and checks all of it. `on_progress` receives the number of checked bytes and the total.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with file, line, what was found and what was expected, for up to 20
    /// faults at once.
    pub fn open(
        path: impl AsRef<Path>,
        settings: &PromptSettings,
        ctx: &Context,
        on_progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::open_all(&[path], settings, ctx, on_progress)
    }

    /// The same for several files in this order; ids must be unique in all of them.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when one is named twice.
    pub fn open_all(
        paths: &[impl AsRef<Path>],
        settings: &PromptSettings,
        ctx: &Context,
        on_progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, Error> {
        let paths: Vec<&Path> = paths.iter().map(AsRef::as_ref).collect();
        refuse_twice(&paths)?;
        let folder = settings.spool_folder_or_default();
        let open = |path: &&Path| {
            let file = convert::open(path, settings, &folder, ctx)?;
            let folder = if path.is_dir() {
                path
            } else {
                path.parent().unwrap_or(path)
            };
            Ok(NamedFile {
                folder: folder.to_owned(),
                ..file
            })
        };
        let files = paths.iter().map(open).collect::<Result<_, Error>>()?;
        Self::check(files, settings, ctx, on_progress)
    }

    /// The same for files with other names in messages.
    pub(super) fn check(
        #[allow(unused_mut)] mut files: Vec<NamedFile>,
        settings: &PromptSettings,
        ctx: &Context,
        on_progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, Error> {
        let total = files.iter().map(|file| file.source.len()).sum();
        #[cfg(feature = "files")]
        let left_out = files.iter_mut().fold(LeftOut::default(), |mut all, file| {
            all.extend(std::mem::take(&mut file.left_out));
            all
        });
        let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        let input = InputFile::open_all(files, settings.clone())?;
        let classes = Mutex::<Classes>::default();
        let items = input.check(Hooks {
            classify: &|request| Classes::classify(&classes, request).unwrap_or(u16::MAX),
            cancelled: &|| ctx.is_cancelled(),
            progress: &|done| on_progress(done, total),
        })?;
        let Classes { kinds, prefix, .. } = classes.into_inner();
        if kinds.len() >= MOST_CLASSES {
            let input = names.join(", ");
            let why = format!("{input}: more than {MOST_PACKED} different models");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Ok(Self {
            input: Arc::new(input),
            items,
            kinds,
            prefix: prefix.flatten(),
            settings: settings.clone(),
            #[cfg(feature = "files")]
            left_out,
        })
    }

    /// Number of items.
    pub fn items(&self) -> u64 {
        self.items.len() as u64
    }

    /// Number of items that make no prompt, and are not sent.
    pub fn bad_rows(&self) -> u64 {
        self.items.count_by(Entry::is_bad)
    }

    /// Number of items without a model.
    pub fn without_model(&self) -> u64 {
        self.items.unnamed
    }

    /// Number of items whose conversation ends with a message of the assistant, which is sent with them.
    pub fn with_answer(&self) -> u64 {
        self.items.answered
    }

    /// The files of folders that were skipped.
    #[cfg(feature = "files")]
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Reads a stream such as standard input to its end, and checks all of it like [`open`](Self::open). The stream is
    /// stored in a file in the [spool folder](PromptSettings::spool_folder), or if that is not writable in the system's
    /// folder for temporary files. The file is deleted when the program ends. A read that blocks is not interrupted;
    /// `ctx` is checked between two reads.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the stream cannot be read or the file cannot be written.
    pub fn from_reader(
        reader: impl Read,
        settings: &PromptSettings,
        ctx: &Context,
    ) -> Result<Self, Error> {
        Self::from_named(STDIN, reader, settings, ctx)
    }

    /// The same for a stream with this name in messages, such as a pipe's path.
    ///
    /// # Errors
    /// As [`from_reader`](Self::from_reader).
    pub fn from_named(
        name: &str,
        reader: impl Read,
        settings: &PromptSettings,
        ctx: &Context,
    ) -> Result<Self, Error> {
        let mut text = plain_text(name, reader, settings.encoding)?;
        let mut start = Vec::new();
        let read = text.by_ref().take(FIRST_LINE).read_to_end(&mut start);
        read.map_err(|error| fault::unreadable(name, &error))?;
        let form = settings.form_of_stream(name, &start)?;
        let folder = settings.spool_folder_or_default();
        // A run may have no writable folder.
        let spool = SpoolFile::anywhere(&folder, name, u64::MAX)?;
        let file = convert::converted(start.chain(text), form, name, spool, settings, ctx)?;
        Self::check(vec![file], settings, ctx, &|_, _| {})
    }

    /// The requests, in the order of the input and each with its id, as a [`FileRun`](crate::FileRun) would send them,
    /// for example for a queue. The input is read again during the iteration; it is not stored in memory.
    ///
    /// The last item is an error if the input has changed since it was checked, or cannot be read.
    pub fn into_requests(self) -> impl FusedIterator<Item = Result<Request, Error>> {
        let (input, mut items) = (self.input, self.items);
        items.in_order();
        let mut next = 0;
        let requests = std::iter::from_fn(move || {
            let item = (next..items.len()).find(|i| !items[*i].is_bad())?;
            let read = input.read(item, &items);
            next = if read.is_ok() { item + 1 } else { items.len() };
            Some(read.map(|item| item.request).map_err(Error::from))
        });
        requests.fuse()
    }
}

impl PromptSettings {
    /// The request on one line of JSON, in the format of a file of prompts, for lines that arrive one by one. It can
    /// request only one answer and cannot name local files, because its author may not be allowed to read them.
    ///
    /// ```
    /// use batchwright::files::PromptSettings;
    /// let line = r#"{"custom_id": "a", "body": {"messages": [{"role": "user", "content": "Name a prime."}]}}"#;
    /// let request = PromptSettings::new().model("gpt-5-mini").request(line)?;
    /// assert_eq!(request.id.as_deref(), Some("a"));
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with what was found and what was expected.
    pub fn request(&self, line: &str) -> Result<Request, Error> {
        parse_alone(line, self).map_err(|fault| Error::new(ErrorKind::Invalid, fault.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn spooled(text: &str, folder: &Path) -> Result<Prompts, Error> {
        let settings = PromptSettings::new().spool_folder(folder);
        Prompts::from_reader(text.as_bytes(), &settings, &Context::new())
    }

    #[test]
    fn a_stream_is_checked_completely_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = spooled(
            "\n \n{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n",
            folder.path(),
        );
        assert_eq!(prompts.unwrap().items(), 2);
        let bad = spooled("{\"prompt\": \"a\"}\n{\n", folder.path())
            .err()
            .unwrap();
        assert!(bad.message().starts_with("(standard input):2: "), "{bad}");
        let text = spooled("\u{feff}one\ntwo\nthree", folder.path()).unwrap();
        assert_eq!(text.into_requests().count(), 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[cfg(test)]
mod request_tests {
    use super::*;
    use crate::base::cancel::Context;

    #[test]
    fn a_single_line_requests_one_answer_and_reads_no_file() {
        let settings = PromptSettings::new();
        let message = |content: &str| format!(r#"{{"role": "user", "content": {content}}}"#);
        let line = |content: &str, more: &str| {
            format!(r#"{{"id": "a", "messages": [{}]{more}}}"#, message(content))
        };
        let read = settings.request(&line("\"hi\"", r#", "n": 1"#)).unwrap();
        assert_eq!((read.id.as_deref(), read.messages.len()), (Some("a"), 1));
        let path = r#"[{"type": "image", "path": "/etc/hostname"}]"#;
        for (line, found) in [
            (line(path, ""), "a file of this machine"),
            (line("\"hi\"", r#", "n": 2"#), "repeat the line"),
            ("{}".to_owned(), "prompt"),
            ("[]".to_owned(), "list"),
        ] {
            let error = settings.request(&line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(found), "{error}");
        }
        let settings = settings.task(crate::client::RequestTask::Embed);
        let text = r#"{"custom_id": "a", "url": "/v1/embeddings", "body": {"input": "hi"}}"#;
        assert_eq!(settings.request(text).unwrap().messages[0].text(), "hi");
    }

    #[test]
    fn a_file_that_changes_after_its_check_ends_the_requests_with_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.txt");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let settings = PromptSettings::new();
        let file = Prompts::open(&path, &settings, &Context::new(), &|_, _| {}).unwrap();
        let mut requests = file.into_requests();
        assert!(requests.next().unwrap().is_ok());
        std::fs::write(&path, "one\nTWO\nthree\n").unwrap();
        let error = requests.next().unwrap().unwrap_err();
        assert!(error.message().contains("item 2"), "{}", error.message());
        assert!(requests.next().is_none());
    }
}
