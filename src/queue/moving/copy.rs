//! Rows on their way from one store to another.

use std::collections::HashMap;

use rusqlite::types::Value;

use crate::base::{Error, ErrorKind};
use crate::queue::job::COMPLETION_KIND;
use crate::queue::prompt_job::embedded;
use crate::queue::store::moving::{
    MOVED_TABLES, MovableStore, MoveMark, MovedTable, NUMBERED, PIECE_BYTES, PIECES, row_bytes,
};

use super::{MoveProgress, MoveReport};

/// Rows of one transaction.
const MOST_ROWS: usize = 2_000;

/// Job states in rows: jobs have ended from the first value on, and can be requeued from the second on.
const COMPLETED: i64 = 4;
const FAILED: i64 = 5;

/// Handling of local files that prompts name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalFiles {
    /// Jobs receive the bytes of the files.
    Embed,
    /// Jobs keep the paths.
    Keep,
}

/// A copy of all rows.
pub(super) struct Copy<'a> {
    pub from: &'a dyn MovableStore,
    pub to: &'a dyn MovableStore,
    /// The mark of the store that is written: once another attempt replaces it, the copy fails.
    pub own: &'a MoveMark,
    pub files: LocalFiles,
    pub tell: Option<Box<dyn FnMut(MoveProgress) + 'a>>,
    /// The kinds of lanes.
    kinds: HashMap<i64, String>,
    by_path: u64,
}

impl<'a> Copy<'a> {
    pub fn new(
        from: &'a dyn MovableStore,
        to: &'a dyn MovableStore,
        own: &'a MoveMark,
        files: LocalFiles,
    ) -> Self {
        Self {
            from,
            to,
            own,
            files,
            tell: None,
            kinds: HashMap::new(),
            by_path: 0,
        }
    }

    /// Copies the missing rows, then the queue's identity. Checks that the copy is complete.
    pub fn run(mut self) -> Result<MoveReport, Error> {
        let total = self.from.count_rows(MovedTable::named("jobs"))?;
        let mut jobs = 0;
        for table in MOVED_TABLES.iter() {
            let mut after = self.to.last_key(table)?;
            if after.is_some() && table.name == "payloads" {
                jobs = self.to.count_rows(table)?;
            }
            loop {
                let rows = self.from.rows(table, after.as_deref(), MOST_ROWS)?;
                let Some(last) = rows.last() else { break };
                after = Some(last[..table.keys].to_vec());
                if table.name != "payloads" {
                    self.to.add_rows(table, rows, self.own)?;
                    continue;
                }
                let (to, own) = (self.to, self.own);
                jobs += rows.len() as u64;
                in_pieces(
                    rows,
                    |row| self.settle_files(row),
                    |piece| to.add_rows(table, piece, own),
                )?;
                if let Some(tell) = &mut self.tell {
                    tell(MoveProgress { jobs, total });
                }
            }
            // The number of these rows depends on the kind of store.
            if table.name == PIECES {
                continue;
            }
            let (there, here) = (self.from.count_rows(table)?, self.to.count_rows(table)?);
            if there != here {
                let why = format!(
                    "{here} of {there} rows of the table {} were copied; run the command again",
                    table.name
                );
                return Err(Error::new(ErrorKind::Transient, why).with_storage());
            }
        }
        self.to.set_identity(&self.from.identity()?, self.own)?;
        for table in NUMBERED {
            self.to
                .set_last_number(table, self.from.last_number(table)?, self.own)?;
        }
        Ok(MoveReport {
            by_path: self.by_path,
            ..report_of(self.to)?
        })
    }

    /// Embeds the files that a prompt names into its job, if requested.
    fn settle_files(&mut self, payload: &mut [Value]) -> Result<(), Error> {
        let (Some(Value::Integer(job)), Some(Value::Text(body))) =
            (payload.first(), payload.get(3))
        else {
            return Ok(());
        };
        // A checked payload has a hash, and only such a payload is parsed.
        if !body.contains("\"sha256\"") {
            return Ok(());
        }
        let job = *job;
        let (lane, status) = self.lane_and_status(job)?;
        if status == COMPLETED || self.kind(lane)? != COMPLETION_KIND {
            return Ok(());
        }
        if self.files == LocalFiles::Keep {
            self.by_path += 1;
            return Ok(());
        }
        match embedded(body) {
            Ok(Some(body)) => payload[3] = Value::Text(body),
            Ok(None) => {}
            // The job has ended. It needs the file only if it is requeued.
            Err(_) if status >= FAILED => self.by_path += 1,
            Err(error) => {
                let name = match &payload[1] {
                    Value::Text(name) => name.clone(),
                    _ => format!("number {}", job & 0xffff_ffff),
                };
                let why = format!(
                    "the job {name} names a local file that cannot be put into it: {}. Restore the file and run the \
                     command again, or let jobs keep their paths (--keep-paths): then they need the files where they run",
                    error.message()
                );
                return Err(Error::new(ErrorKind::Invalid, why).with_storage());
            }
        }
        Ok(())
    }

    fn lane_and_status(&self, job: i64) -> Result<(i64, i64), Error> {
        let before = [Value::Integer(job - 1)];
        let rows = self
            .from
            .rows(MovedTable::named("jobs"), Some(&before), 1)?;
        match rows.first().map(|row| (&row[0], &row[1], &row[3])) {
            Some((Value::Integer(id), Value::Integer(lane), Value::Integer(status)))
                if *id == job =>
            {
                Ok((*lane, *status))
            }
            // A payload without a job is never read.
            _ => Ok((0, COMPLETED)),
        }
    }

    fn kind(&mut self, lane: i64) -> Result<&str, Error> {
        if !self.kinds.contains_key(&lane) {
            let before = [Value::Integer(lane - 1)];
            let rows = self
                .from
                .rows(MovedTable::named("lanes"), Some(&before), 1)?;
            let kind = match rows.first().map(|row| (&row[0], &row[1])) {
                Some((Value::Integer(no), Value::Text(kind))) if *no == lane => kind.clone(),
                _ => String::new(),
            };
            self.kinds.insert(lane, kind);
        }
        Ok(self.kinds.get(&lane).map_or("", |kind| kind))
    }
}

/// Settles rows one by one, which may enlarge them, and adds them in pieces of at most [`PIECE_BYTES`], or of one row.
fn in_pieces(
    rows: Vec<Vec<Value>>,
    mut settle: impl FnMut(&mut [Value]) -> Result<(), Error>,
    mut add: impl FnMut(Vec<Vec<Value>>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for mut row in rows {
        settle(&mut row)?;
        let more = row_bytes(&row);
        if !piece.is_empty() && bytes + more > PIECE_BYTES {
            add(std::mem::take(&mut piece))?;
            bytes = 0;
        }
        bytes += more;
        piece.push(row);
    }
    if piece.is_empty() {
        return Ok(());
    }
    add(piece)
}

/// The contents of a queue.
pub(super) fn report_of(store: &dyn MovableStore) -> Result<MoveReport, Error> {
    let count = |name| store.count_rows(MovedTable::named(name));
    let (jobs, results) = (count("jobs")?, count("results")?);
    Ok(MoveReport {
        processes: count("processes")?,
        jobs,
        waiting: jobs.saturating_sub(results),
        results,
        batches: count("batches")?,
        keys: count("keys")?,
        by_path: 0,
        files: count("files")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_by_the_bytes_of_settled_rows() {
        let rows = (0..10).map(|job| vec![Value::Integer(job), Value::Null]);
        let (mut pieces, mut added) = (Vec::new(), Vec::new());
        let grow = |row: &mut [Value]| {
            row[1] = Value::Blob(vec![0; PIECE_BYTES / 3]);
            Ok(())
        };
        let add = |piece: Vec<Vec<Value>>| {
            pieces.push(piece.iter().map(|row| row_bytes(row)).sum::<usize>());
            added.extend(piece.into_iter().map(|row| row[0].clone()));
            Ok(())
        };
        in_pieces(rows.collect(), grow, add).unwrap();
        assert!(
            pieces.iter().all(|bytes| *bytes <= PIECE_BYTES),
            "{pieces:?}"
        );
        assert_eq!(pieces.len(), 5);
        assert_eq!(added, (0..10).map(Value::Integer).collect::<Vec<_>>());
    }
}
