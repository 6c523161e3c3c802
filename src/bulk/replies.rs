//! Billed but unusable replies that are too large for a result line: each is stored in a file in a folder next to the
//! output.

use std::borrow::Cow;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::base::disk::sync_folder;
use crate::base::error::RAW_LIMIT;
use crate::base::json_text::hex;
use crate::base::{AtomicFile, Error};
use crate::llm::outcome::Outcome;

/// The folder of an output.
pub(crate) struct Replies {
    folder: PathBuf,
}

impl Replies {
    /// The folder next to the output with that path. It is created with its first file.
    pub(crate) fn beside(output: &Path) -> Self {
        let mut name = output.file_name().unwrap_or_default().to_owned();
        name.push(".replies");
        Self {
            folder: output.with_file_name(name),
        }
    }

    /// The error with its reply in a file, if the reply is too large for a line. If it cannot be written there, it
    /// stays in the line, because it was billed.
    pub(crate) fn put(&self, error: Error) -> Error {
        let text = error.raw().map(|text| (text.as_bytes(), "txt"));
        let reply = error.raw_bytes().map(|bytes| (bytes, "bin")).or(text);
        let is_large =
            |(reply, _): &(&[u8], &str)| error.is_unusable_reply() && reply.len() > RAW_LIMIT;
        let Some((reply, extension)) = reply.filter(is_large) else {
            return error;
        };
        match self.write(reply, extension) {
            Ok(file) => error.with_reply_in(file),
            Err(trouble) => {
                let folder = self.folder.display();
                log::warn!(
                    "{folder}: cannot write a reply, which stays in its result line: {trouble}"
                );
                error
            }
        }
    }

    /// A result line that was made elsewhere, with a large reply moved to a file.
    pub(crate) fn put_line<'l>(&self, line: &'l str) -> Cow<'l, str> {
        if line.len() <= RAW_LIMIT || !line.contains("\"unusable_reply\":true") {
            return Cow::Borrowed(line);
        }
        let Ok(mut outcome) = serde_json::from_str::<Outcome>(line) else {
            return Cow::Borrowed(line);
        };
        outcome.result = outcome.result.map_err(|error| self.put(error));
        match serde_json::to_string(&outcome) {
            Ok(line) => Cow::Owned(line),
            Err(_) => Cow::Borrowed(line),
        }
    }

    /// Writes a reply to a file that is named by its content: items with equal replies share the file, and no reply
    /// overwrites another one. Returns its path, relative to the folder of the output.
    fn write(&self, reply: &[u8], extension: &str) -> io::Result<String> {
        let name = hex(&Sha256::digest(reply)[..16]);
        let file = self.folder.join(format!("{name}.{extension}"));
        if !fs::metadata(&file).is_ok_and(|found| found.len() == reply.len() as u64) {
            fs::create_dir_all(&self.folder)?;
            // An incomplete file of a killed run must not have this name.
            let part = AtomicFile::create(&file, OpenOptions::new().write(true))?;
            part.file().write_all(reply)?;
            part.replace()?;
        }
        // A queue deletes the reply after its line is saved, so it must survive a power failure too.
        let _ = sync_folder(&file);
        let _ = sync_folder(&self.folder);
        let folder = self.folder.file_name().unwrap_or_default();
        Ok(format!("{}/{name}.{extension}", folder.to_string_lossy()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;

    fn place() -> (tempfile::TempDir, Replies) {
        let folder = tempfile::tempdir().unwrap();
        let replies = Replies::beside(&folder.path().join("out.jsonl"));
        (folder, replies)
    }

    fn unusable(reply: &str) -> Error {
        Error::new(ErrorKind::Malformed, "no").with_unusable_reply(reply)
    }

    #[test]
    fn a_large_reply_is_in_a_file_and_a_small_one_in_its_line() {
        let (folder, replies) = place();
        let small = replies.put(unusable(&"x".repeat(RAW_LIMIT)));
        assert_eq!(small.raw().unwrap().len(), RAW_LIMIT);
        assert_eq!(small.reply_file(), None);
        assert!(!replies.folder.exists());
        let reply = "ä".repeat(RAW_LIMIT);
        for _ in 0..2 {
            let large = replies.put(unusable(&reply));
            let file = folder.path().join(large.reply_file().unwrap());
            assert_eq!(fs::read_to_string(file).unwrap(), reply);
            assert!(large.is_unusable_reply());
            assert!(reply.starts_with(large.raw().unwrap()));
        }
        let bytes = [&b"\xff\xfe"[..], &[7; RAW_LIMIT]].concat();
        let large = Error::new(ErrorKind::Malformed, "no").with_unusable_reply(&*bytes);
        let large = replies.put(large);
        let file = folder.path().join(large.reply_file().unwrap());
        assert_eq!(fs::read(file).unwrap(), bytes);
        assert_eq!(large.raw_bytes(), None);
        assert_eq!(fs::read_dir(&replies.folder).unwrap().count(), 2);
        let other = Error::new(ErrorKind::Malformed, "no").with_raw(&reply);
        assert_eq!(replies.put(other).reply_file(), None);
    }

    #[test]
    fn a_line_from_a_queue_keeps_everything_except_its_large_reply() {
        let (folder, replies) = place();
        let line = |reply: &str, marked: bool| {
            let line = serde_json::json!({
                "id": "a", "success": false, "text": null, "provider": "p", "model": "m",
                "finish_reason": null, "usage": null, "attempts": 1, "latency_ms": 5,
                "cost_usd": null, "request_hash": "01", "error": unusable(reply),
            });
            let mark = if marked {
                ""
            } else {
                ",\"unusable_reply\":true"
            };
            line.to_string().replacen(mark, "", 1)
        };
        let large = "x".repeat(RAW_LIMIT + 1);
        for whole in [
            line("x", true),
            line(&large, false),
            format!("{{\"a\":\"{large}\"}}"),
        ] {
            assert_eq!(replies.put_line(&whole), whole);
        }
        let short = replies.put_line(&line(&large, true)).into_owned();
        let short: Outcome = serde_json::from_str(&short).unwrap();
        let error = short.result.unwrap_err();
        let file = folder.path().join(error.reply_file().unwrap());
        assert_eq!(fs::read_to_string(file).unwrap(), large);
        assert_eq!((short.id.as_deref(), short.attempts), (Some("a"), 1));
    }

    #[test]
    fn a_reply_that_cannot_be_written_stays_in_its_line() {
        let (folder, replies) = place();
        fs::write(folder.path().join("out.jsonl.replies"), "a file").unwrap();
        let reply = "x".repeat(RAW_LIMIT + 1);
        let kept = replies.put(unusable(&reply));
        assert_eq!(kept.raw(), Some(&*reply));
    }
}
