//! The bytes of the HTTP server's `/v1/files`. They are files in a folder next to its records. This module reads and
//! writes them in pieces, the form that they have in a database.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use parking_lot::Mutex;
use rusqlite::types::Value;

use crate::base::private;
use crate::queue::store::moving::{PIECE_BYTES, row_bytes};

/// Bytes of a piece.
const PIECE: u64 = 1 << 20;

/// The folder, and the last written file.
pub(super) struct Uploads {
    folder: PathBuf,
    last: Mutex<Option<String>>,
}

impl Uploads {
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            last: Mutex::default(),
        }
    }

    /// Complete files in the order of their names.
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && !name.ends_with(".part") {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The next pieces after the given one.
    pub fn rows(&self, after: Option<&[Value]>, most: usize) -> io::Result<Vec<Vec<Value>>> {
        let (from, mut seq) = match after {
            Some([Value::Text(file), Value::Integer(seq)]) => (file.clone(), seq + 1),
            _ => (String::new(), 0),
        };
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for name in self.names()?.into_iter().filter(|name| *name >= from) {
            seq = if name == from { seq } else { 0 };
            let mut file = File::open(self.folder.join(&name))?;
            let length = file.metadata()?.len();
            loop {
                if rows.len() >= most || bytes >= PIECE_BYTES {
                    return Ok(rows);
                }
                let at = u64::try_from(seq).unwrap_or(0) * PIECE;
                // An empty file has one piece.
                if at >= length && seq > 0 {
                    break;
                }
                let mut body = Vec::new();
                file.seek(SeekFrom::Start(at))?;
                Read::by_ref(&mut file).take(PIECE).read_to_end(&mut body)?;
                let size = Value::Integer(body.len().try_into().unwrap_or(0));
                let owner = Value::Text(String::new());
                let row = vec![
                    Value::Text(name.clone()),
                    Value::Integer(seq),
                    owner,
                    size,
                    Value::Blob(body),
                ];
                bytes += row_bytes(&row);
                rows.push(row);
                seq += 1;
            }
        }
        Ok(rows)
    }

    /// Adds pieces in the order of their files and numbers. The first piece of a file replaces an existing file.
    pub fn add(&self, rows: Vec<Vec<Value>>) -> io::Result<()> {
        private::make_folder(&self.folder)?;
        let mut last = self.last.lock();
        for row in rows {
            let [
                Value::Text(name),
                _,
                Value::Text(owner),
                _,
                Value::Blob(body),
            ] = &row[..]
            else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            // The file of an interrupted upload. The server chooses all names; clients never do.
            if !owner.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
                continue;
            }
            let path = self.folder.join(name);
            let mut file = if last.as_deref() == Some(name) {
                File::options().append(true).open(&path)?
            } else {
                private::make_file(&path)?
            };
            file.write_all(body)?;
            file.sync_all()?;
            *last = Some(name.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_out_as_they_went_in() {
        let (folder, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let piece = PIECE as usize;
        let files = [("a", 0), ("b", 1), ("c", 2 * piece), ("d", 6 * piece + 1)];
        for (name, length) in files {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        fs::write(folder.path().join("e.part"), "cut off").unwrap();
        let from = Uploads::new(folder.path().to_owned());
        let to = Uploads::new(new.path().to_owned());
        let mut after: Option<Vec<Value>> = None;
        loop {
            let rows = from.rows(after.as_deref(), 3).unwrap();
            let Some(last) = rows.last() else { break };
            after = Some(last[..2].to_vec());
            to.add(rows).unwrap();
        }
        assert!(!new.path().join("e.part").exists());
        for (name, length) in files {
            let (old, new) = (folder.path().join(name), new.path().join(name));
            assert_eq!(fs::read(&old).unwrap().len(), length);
            assert!(fs::read(old).unwrap() == fs::read(new).unwrap(), "{name}");
        }
    }
}
