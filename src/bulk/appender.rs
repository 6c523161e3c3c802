//! Adds finished lines to a results file, each once; and half of a digest, which identifies ids and lines that would take
//! too much memory themselves.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::options::FileRunError;
use super::replies::Replies;
use super::results::{PreviousLine, ResultsFile, trouble};
use crate::base::Error;
use crate::base::disk::sync_folder;

/// A results file that receives finished lines of a queue, which deletes them after they are saved here. The file is
/// locked as long as this value exists.
///
/// A program that was killed between adding and deleting adds the same lines again; lines that the file contains
/// already, byte for byte, are then skipped. That takes 32 bytes of memory per line of the file.
pub struct ResultsAppender {
    path: PathBuf,
    file: ResultsFile,
    replies: Replies,
    /// Hashes of the lines at the time of opening, sorted; and of their ids, if these are asked for.
    before: Vec<Key>,
    repeated: u64,
}

impl ResultsAppender {
    /// Opens the file, which is created if it does not exist, and repairs what a killed run left behind.
    ///
    /// # Errors
    /// [`FileRunError::Usage`] if it contains lines that are not result lines, and it stays unchanged;
    /// [`FileRunError::Output`] if it cannot be written or another program writes to it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileRunError> {
        Self::open_for(path.as_ref(), true)
    }

    /// The same; without ids nothing counts as [`repeated`](Self::repeated).
    pub(super) fn open_for(path: &Path, keeps_ids: bool) -> Result<Self, FileRunError> {
        let mut before = Vec::new();
        let mut file = ResultsFile::open(path, true, &mut |line, _| {
            before.extend(keeps_ids.then(|| key(&line.id)));
        })?;
        file.mend()?;
        // After a power failure the lines exist only if the name was synced too.
        let _ = sync_folder(path);
        file.lines(&mut |line| before.push(key_of(line)))?;
        before.sort_unstable();
        Ok(Self {
            path: path.to_owned(),
            replies: file.replies(),
            file,
            before,
            repeated: 0,
        })
    }

    /// Adds these lines, given without line ends, except those that the file contains already, and syncs them to the
    /// disk. Returns the number of added lines.
    ///
    /// If the lines cannot be written, and then the file contains none of them; or if the file was removed or replaced.
    pub fn append<L: AsRef<str>>(&mut self, lines: &[L]) -> Result<u64, Error> {
        let (mut bytes, mut added) = (Vec::new(), 0);
        for line in lines {
            let line = self.replies.put_line(line.as_ref().trim_ascii());
            let line = line.as_bytes();
            let was_there = |key: Key| self.before.binary_search(&key).is_ok();
            if !was_there(key_of(line)) {
                let parsed = serde_json::from_slice::<PreviousLine>(line);
                self.repeated += u64::from(parsed.is_ok_and(|line| was_there(key(&line.id))));
                added += 1;
                bytes.extend_from_slice(line);
                bytes.push(b'\n');
            }
        }
        self.file.undisturbed()?;
        if !bytes.is_empty() {
            let written = self.file.append_io(&bytes);
            written.map_err(|e| trouble(&self.path, "cannot write the results", &e))?;
        }
        Ok(added)
    }

    /// The number of added lines whose id the file had at the time of opening, with another result.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }
}

pub(crate) type Key = u128;

pub(super) fn key(id: &str) -> Key {
    key_of(id.as_bytes())
}

pub(crate) fn key_of(bytes: &[u8]) -> Key {
    let digest = Sha256::digest(bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    Key::from_be_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = r#"{"id":"a","success":true,"text":"x","request_hash":"01","error":null}"#;
    const B: &str = r#"{"id":"b","success":true,"kind":"k","result":1,"request_hash":null}"#;

    fn open(path: &Path) -> ResultsAppender {
        ResultsAppender::open(path).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn an_existing_line_is_not_added_again_and_a_truncated_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        assert_eq!(open(&path).append(&[A]).unwrap(), 1);
        let torn = &B[..30];
        std::fs::write(&path, format!("{A}\n{torn}")).unwrap();
        assert_eq!(open(&path).append(&[A, B]).unwrap(), 1);
        assert_eq!(open(&path).append(&[A, B]).unwrap(), 0);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{A}\n{B}\n"));
        // Another answer to the same request was billed too.
        let other = A.replace('x', "y");
        let mut file = open(&path);
        assert_eq!(file.append(&[&other]).unwrap(), 1);
        assert_eq!(file.append(&[A.replace("\"a\"", "\"c\"")]).unwrap(), 1);
        assert_eq!(file.repeated(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_added_to_a_removed_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut file = open(&path);
        std::fs::remove_file(&path).unwrap();
        let error = file.append(&[A]).unwrap_err();
        assert!(error.message().contains("removed"), "{}", error.message());
    }
}
