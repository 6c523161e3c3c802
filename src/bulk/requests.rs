//! Checked prompts as requests, in order, for callers that send them elsewhere.

use std::iter::FusedIterator;
use std::sync::Arc;

use crate::base::{Error, ErrorKind};
use crate::llm::request::Request;

use super::input::{FileIndex, InputFile, parse_alone};
use super::prompts::{PromptSettings, Prompts};

/// The requests of [`Prompts`], in their order; see [`Prompts::into_requests`].
pub struct PromptRequests {
    input: Arc<InputFile>,
    index: FileIndex,
    next: usize,
}

impl Prompts {
    /// The requests, in the order of the input and each with its id, as a [`FileRun`](crate::FileRun) would send them,
    /// for example for a queue. The input is read again during the iteration; it is not stored in memory.
    ///
    /// The last item is an error if the input has changed since it was checked, or cannot be read.
    pub fn into_requests(mut self) -> PromptRequests {
        self.file.items.in_order();
        PromptRequests {
            input: self.file.input,
            index: self.file.items,
            next: 0,
        }
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

impl Iterator for PromptRequests {
    type Item = Result<Request, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { input, index, next } = self;
        let item = (*next..index.len()).find(|i| !index.is_bad(*i))?;
        *next = item + 1;
        let read = input.read(item, index).map(|item| item.request);
        if read.is_err() {
            *next = index.len();
        }
        Some(read.map_err(Error::from))
    }
}

impl FusedIterator for PromptRequests {}

#[cfg(test)]
mod tests {
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
