//! The servers of a queue. Each has a `server.db` of its own, and both count its steps, the queue first: a backup of one of
//! them that was put back beside the other is noticed before anything is bought again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::ErrorCode;

use crate::base::Error;
use crate::base::disk::folder_of;
use crate::base::host::host;
use crate::base::migrations::connect;

use super::statements::{Fault, Queries as _, by, invalid};
use super::{Db, Mode, Store};

/// A server and its last step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerStep {
    /// As its `server.db` says it.
    pub id: String,
    /// How many steps there were.
    pub step: i64,
    /// Where its `server.db` is: empty if beside the file of the queue.
    pub place: String,
}

/// Why a queue and a `server.db` cannot be used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apart {
    /// The queue knows a server here, and its `server.db` is gone.
    Gone,
    /// `server.db` is of an earlier moment than the queue, or another one.
    OlderServer,
    /// The queue is of an earlier moment than `server.db`, or another one.
    OlderQueue,
}

impl Store {
    /// The servers that have used this queue.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn servers(&self) -> Result<Vec<ServerStep>, Error> {
        self.read(|tx| {
            let there = if tx.is_server() {
                "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '#servers'"
            } else {
                "SELECT 1 FROM sqlite_master WHERE name = '#servers'"
            };
            // Who only looks leaves an earlier version as it is.
            if !tx.exists(there, by![])? {
                return Ok(Vec::new());
            }
            let all = tx.many("SELECT id, step, place FROM #servers", by![])?;
            let server = |(id, step, place)| ServerStep { id, step, place };
            Ok(all.into_iter().map(server).collect())
        })
    }

    /// What keeps the queue from being used together with a `server.db`, which a server may be using.
    ///
    /// # Errors
    /// When one of both cannot be read.
    pub fn apart(&self, server_db: &Path) -> Result<Option<Apart>, Error> {
        let before = self.servers()?;
        let own = own(server_db, self.id())?;
        let known = self.servers()?;
        let step = |all: &[ServerStep], id: &str| {
            let found = all.iter().find(|server| server.id == id);
            found.map(|server| server.step)
        };
        let (id, at) = own.clone().unwrap_or_default();
        Ok(match step(&known, &id) {
            Some(now) if at > now => Some(Apart::OlderQueue),
            // One step more in the queue, and the server was killed in between.
            Some(_) => step(&before, &id)
                .filter(|then| *then > at + 1)
                .map(|_| Apart::OlderServer),
            None if at > 0 => Some(Apart::OlderQueue),
            None => {
                let place = self.server_place(server_db);
                let is_here = known.iter().any(|server| server.place == place);
                let apart = own.map_or(Apart::Gone, |_| Apart::OlderServer);
                is_here.then_some(apart)
            }
        })
    }

    /// Fails if the queue and this `server.db` are not of one moment.
    ///
    /// # Errors
    /// Both are named, with what to do.
    pub fn check_server(&self, server_db: &Path) -> Result<(), Error> {
        let Some(apart) = self.apart(server_db)? else {
            return Ok(());
        };
        let (queue, server) = (&self.location, server_db.display());
        let what = match apart {
            Apart::Gone => {
                format!(
                    "{server} is gone, and the queue {queue} has what a server with it has begun"
                )
            }
            Apart::OlderServer => {
                format!("{server} is older than the queue {queue}, or of another one")
            }
            Apart::OlderQueue => {
                format!("the queue {queue} is older than {server}, or another one")
            }
        };
        Err(invalid(format!(
            "{what}: used together, they would buy again what was paid for, so nothing is called, created, cancelled or \
             deleted. Put both back as they were at one moment. If that is not possible: batchwright restore {} \
             --original-is-gone says what may be paid again, and goes on with what is there",
            folder_of(server_db).display()
        ))
        .with_storage())
    }

    /// How the queue names the place of a `server.db`.
    pub fn server_place(&self, server_db: &Path) -> String {
        let folder = folder_of(server_db);
        let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        match &self.db {
            Db::Sqlite(db) if db.place.path.parent() == Some(&folder) => String::new(),
            _ => format!("{}:{}", host(), folder.display()),
        }
    }

    /// Notes a step of a server, so that it survives a power cut. `run` is the start of the server; with `begins`, the first
    /// step of that start.
    ///
    /// # Errors
    /// When it cannot be written; when another start of this server has gone on, with a copy of its `server.db`.
    pub fn note_step(&self, server: &ServerStep, run: &str, begins: bool) -> Result<(), Error> {
        let ServerStep { id, step, place } = server;
        let (id, place, run) = (id.clone(), place.clone(), run.to_owned());
        self.write_as(Mode::WriteSynced, |tx| {
            let note = "UPDATE #servers SET step = ?, place = ?, run = ? WHERE id = ? AND (run = ? OR ? = 1)";
            let to = by![*step, place.clone(), run.clone(), id.clone(), run.clone(), i64::from(begins)];
            if tx.run(note, to)? > 0 {
                return Ok(());
            }
            if !begins {
                let why = "another server has begun with a copy of this one's server.db: stop one of the two, and give it a \
                           new folder";
                return Err(Fault::from(invalid(why)));
            }
            let add = "INSERT INTO #servers (id, step, place, run) VALUES (?, ?, ?, ?)";
            tx.run(add, by![id.clone(), *step, place.clone(), run.clone()])?;
            Ok(())
        })
    }

    /// Forgets the servers of a place: the `server.db` there is gone for good.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn forget_servers(&self, server_db: &Path) -> Result<(), Error> {
        let place = self.server_place(server_db);
        self.write_as(Mode::WriteSynced, |tx| {
            tx.run("DELETE FROM #servers WHERE place = ?", by![place.clone()])
        })
        .map(drop)
    }
}

/// The id of a `server.db` and its last step with a queue, if there is one. One without an id is of an earlier version.
fn own(server_db: &Path, queue: &str) -> Result<Option<(String, i64)>, Error> {
    if !server_db.exists() {
        return Ok(None);
    }
    let read = || -> rusqlite::Result<(String, i64)> {
        let conn = connect(server_db)?;
        conn.busy_timeout(Duration::from_secs(10))?;
        let find = "SELECT value, ifnull((SELECT max(value) FROM meta WHERE name = 'step ' || ?), 0) \
                    FROM meta WHERE name = 'server'";
        conn.query_row(find, [queue], |row| Ok((row.get(0)?, row.get(1)?)))
    };
    match read() {
        Ok(found) => Ok(Some(found)),
        // No such table, or nothing in it.
        Err(error) if matches!(error.sqlite_error_code(), None | Some(ErrorCode::Unknown)) => {
            Ok(Some(Default::default()))
        }
        Err(error) => {
            let (server, folder) = (
                server_db.display(),
                folder_of(server_db).display().to_string(),
            );
            Err(invalid(format!(
                "{server}: {error}. If it is damaged, put back a copy, or move it away with its -wal and -shm; then batchwright \
                 restore {folder} --original-is-gone says what that may cost"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::queue::store::SqliteOptions;

    #[test]
    fn a_queue_and_a_server_db_of_different_moments_are_apart() {
        use Apart::{Gone, OlderQueue, OlderServer};
        for (queue, server, expected) in [
            (Some(4), Some(4), None),
            // Killed between the two.
            (Some(5), Some(4), None),
            (Some(6), Some(4), Some(OlderServer)),
            (Some(3), Some(4), Some(OlderQueue)),
            (Some(3), None, Some(Gone)),
            // A backup of the queue from before its first server.
            (None, Some(7), Some(OlderQueue)),
            // It has served another queue only.
            (None, Some(0), None),
            (None, None, None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("server.db");
            let open = || Store::open(folder.path().join("llm_jobs.db"), SqliteOptions::default());
            let store = open().unwrap();
            let step = |id: &str, step: i64| ServerStep {
                id: id.to_owned(),
                step,
                place: store.server_place(&path),
            };
            if let Some(number) = queue {
                store.note_step(&step("a", number), "r", true).unwrap();
            }
            if let Some(number) = server {
                let conn = Connection::open(&path).unwrap();
                conn.execute_batch(&format!(
                    "CREATE TABLE meta (name, value); INSERT INTO meta VALUES ('server', 'a'), ('step other', 9), \
                     ('step {}', {number})",
                    store.id()
                ))
                .unwrap();
            }
            assert_eq!(
                store.apart(&path).unwrap(),
                expected,
                "{queue:?} {server:?}"
            );
            if let Err(error) = store.check_server(&path) {
                let message = error.message();
                assert!(
                    message.contains(&*path.to_string_lossy()) && message.contains("llm_jobs.db")
                );
            }
            // A server of another folder has a number of its own.
            let other = tempfile::tempdir().unwrap();
            assert_eq!(store.apart(&other.path().join("server.db")).unwrap(), None);
            store.note_step(&step("a", 9), "s", true).unwrap();
            assert!(store.note_step(&step("a", 10), "r", false).is_err());
            store.note_step(&step("a", 10), "s", false).unwrap();
            assert_eq!(store.servers().unwrap(), [step("a", 10)]);
            store.forget_servers(&path).unwrap();
            assert_eq!(store.servers().unwrap(), []);
        }
    }
}
