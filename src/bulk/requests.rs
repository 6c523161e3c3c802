//! Checked prompts as requests, one after the other, for whoever carries them out elsewhere.

use std::io::Read;
use std::iter::FusedIterator;
use std::sync::Arc;

use crate::base::error::Error;
use crate::llm::request::Request;

use super::input::{FileIndex, InputFile, StreamLines};
use super::prompts::{PromptSource, Prompts};

/// The requests of [`Prompts`], in their order; see [`Prompts::into_requests`].
pub struct PromptRequests(Option<Source>);

enum Source {
    File {
        input: Arc<InputFile>,
        index: Box<FileIndex>,
        next: usize,
    },
    Stream(Box<StreamLines<Box<dyn Read + Send>>>),
}

impl Prompts {
    /// The requests, in the order of the input and each with its id, as a
    /// [`FileRun`](crate::FileRun) would send them: for a queue, say. A file is read again as the
    /// iterator goes on, a stream is checked as it is read; neither is kept in memory.
    ///
    /// An item is an error, the last one, when the file is no longer what was checked, a line of the
    /// stream is no prompt, or they cannot be read.
    pub fn into_requests(self) -> PromptRequests {
        let source = match self.source {
            PromptSource::File(file) => Source::File {
                input: file.input,
                index: Box::new(file.items.finish()),
                next: 0,
            },
            PromptSource::Stream { name, reader } => {
                Source::Stream(Box::new(StreamLines::new(name, reader, self.settings.0)))
            }
        };
        PromptRequests(Some(source))
    }
}

impl Source {
    fn next(&mut self) -> Result<Option<Request>, Error> {
        let item = match self {
            Self::File { input, index, next } => {
                while *next < index.len() && index.is_bad(*next) {
                    *next += 1;
                }
                if *next == index.len() {
                    return Ok(None);
                }
                *next += 1;
                Some(input.read(*next - 1, index)?)
            }
            Self::Stream(lines) => lines.next()?,
        };
        Ok(item.map(|item| item.request))
    }
}

impl Iterator for PromptRequests {
    type Item = Result<Request, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.0.as_mut()?.next().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.0 = None;
        }
        next
    }
}

impl FusedIterator for PromptRequests {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cancel::Context;
    use crate::bulk::prompts::PromptSettings;

    fn ids(requests: PromptRequests) -> Vec<String> {
        requests.map(|r| r.unwrap().id.unwrap()).collect()
    }

    #[test]
    fn a_file_and_a_stream_of_it_give_the_same_requests() {
        let text = "one\n\ntwo\none\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.txt");
        std::fs::write(&path, text).unwrap();
        let settings = PromptSettings::new().model("m");
        let file = Prompts::open(&path, &settings, &Context::new(), &|_, _| {}).unwrap();
        let stream = Prompts::from_reader(text.as_bytes(), &settings);
        let file = ids(file.into_requests());
        assert_eq!(file, ids(stream.into_requests()));
        assert_eq!(file.len(), 3);
        assert_eq!(file[2], format!("{}-2", file[0]));
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
