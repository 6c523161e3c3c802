//! Files of the Batch endpoint in the database that servers share: in pieces, so that neither writing nor reading has
//! more than one of them in memory.

use std::io::{self, Read};
use std::sync::Arc;

use batchwright::{Error, ErrorKind};

use crate::problem::Problem;
use crate::records::Records;
use crate::records::database::{Row, Statements, by};

/// Bytes of a piece. Servers refuse statements that are too long; the least of their bounds is 16 MiB.
pub(super) const PIECE: usize = 1 << 20;

/// The pieces of one file.
#[derive(Clone)]
pub(super) struct Pieces {
    records: Arc<Records>,
    pub(super) id: String,
}

/// A failure of the database, as an error of reading or writing.
fn failed(error: Error) -> io::Error {
    Problem::from(error).into()
}

fn count(row: Option<Row>) -> Result<u64, Error> {
    let number = row.map(|mut row| row.optional_int(0)).transpose()?;
    Ok(u64::try_from(number.flatten().unwrap_or(0)).unwrap_or(0))
}

impl Pieces {
    pub fn new(records: &Arc<Records>, id: &str) -> Self {
        Self {
            records: Arc::clone(records),
            id: id.to_owned(),
        }
    }

    /// Bytes of all files of all servers.
    pub fn all_bytes(records: &Records) -> io::Result<u64> {
        let sum = "SELECT CAST(SUM(bytes) AS SIGNED) FROM #pieces";
        let found = records.single().first(sum, &[]).and_then(count);
        found.map_err(failed)
    }

    /// Removes what servers have left that died while an upload came.
    pub fn forget_cut_off(records: &Records) -> Result<(), Error> {
        let find = "SELECT DISTINCT owner FROM #pieces WHERE owner <> ''";
        for mut row in records.single().rows(find, &[])? {
            let owner = row.text(0)?;
            if records.is_dead(&owner)? {
                let forget = "DELETE FROM #pieces WHERE owner = ?";
                records.single().run(forget, by![owner])?;
            }
        }
        Ok(())
    }

    pub fn bytes(&self) -> io::Result<u64> {
        let sum = "SELECT CAST(SUM(bytes) AS SIGNED) FROM #pieces WHERE file = ?";
        let found = self.records.single().first(sum, by![&*self.id]);
        found.and_then(count).map_err(failed)
    }

    /// The number of the next piece.
    pub fn next(&self) -> io::Result<i64> {
        let next = "SELECT MAX(seq) + 1 FROM #pieces WHERE file = ?";
        let found = self.records.single().first(next, by![&*self.id]);
        let next = found.and_then(count).map_err(failed)?;
        Ok(i64::try_from(next).unwrap_or(i64::MAX))
    }

    /// Adds all of these bytes or nothing, from the piece of this number on, and counts that up. Fails when another
    /// server has added such a piece.
    pub fn add(&self, seq: &mut i64, bytes: &[u8], is_upload: bool) -> io::Result<()> {
        let owner = if is_upload { self.records.name() } else { "" };
        let added = self.records.transaction(|database| {
            let mut next = *seq;
            for piece in bytes.chunks(PIECE) {
                database.run(
                    "INSERT INTO #pieces (file, seq, owner, bytes, body) VALUES (?, ?, ?, ?, ?)",
                    by![&*self.id, next, owner, piece.len() as i64, piece],
                )?;
                next += 1;
            }
            Ok::<i64, Error>(next)
        });
        *seq = added.map_err(failed)?;
        Ok(())
    }

    /// All of an upload is there.
    pub fn keep(&self) -> io::Result<()> {
        let keep = "UPDATE #pieces SET owner = '' WHERE file = ?";
        let kept = self.records.single().run(keep, by![&*self.id]);
        kept.map(drop).map_err(failed)
    }

    /// Replaces a file of this server's role with this one, which has this number of pieces.
    pub fn replace(&self, id: &str, pieces: i64, role: &str) -> io::Result<()> {
        let replaced = self.records.transaction(|database| {
            // While this is locked, no other server takes the role and adds to the file.
            let own = "UPDATE #roles SET owner = owner WHERE name = ? AND owner = ?";
            let owned = database.run(own, by![role, self.records.name()])?;
            database.run("DELETE FROM #pieces WHERE file = ?", by![id])?;
            let keep = "UPDATE #pieces SET file = ?, owner = '' WHERE file = ?";
            let kept = database.run(keep, by![id, &*self.id])?;
            if owned != 1 || i64::try_from(kept) != Ok(pieces) {
                let why = "another server continues with the files of results";
                return Err(Error::new(ErrorKind::Transient, why).with_storage());
            }
            Ok(())
        });
        replaced.map_err(failed)
    }

    pub fn remove(&self) -> io::Result<()> {
        let remove = "DELETE FROM #pieces WHERE file = ?";
        let removed = self.records.single().run(remove, by![&*self.id]);
        removed.map(drop).map_err(failed)
    }

    /// Reads them from the beginning.
    pub fn reader(&self) -> io::Result<PieceReader> {
        Ok(PieceReader {
            left: self.bytes()?,
            pieces: self.clone(),
            seq: 0,
            piece: Vec::new(),
            at: 0,
        })
    }
}

/// Reads a file, one piece at a time.
pub(super) struct PieceReader {
    pieces: Pieces,
    seq: i64,
    piece: Vec<u8>,
    at: usize,
    /// Bytes that are still to come.
    left: u64,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            if self.left == 0 {
                return Ok(0);
            }
            let find = "SELECT body FROM #pieces WHERE file = ? AND seq = ?";
            let by = by![&*self.pieces.id, self.seq];
            let found = self.pieces.records.single().first(find, by);
            let body = found
                .and_then(|row| row.map(|mut row| row.optional_bytes(0)).transpose())
                .map_err(failed)?;
            self.piece = body.flatten().unwrap_or_default();
            if self.piece.is_empty() {
                let why = "the file was deleted while it was read";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
            (self.at, self.seq) = (0, self.seq + 1);
        }
        let read = (&self.piece[self.at..]).read(buffer)?;
        self.at += read;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}
