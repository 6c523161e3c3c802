//! The steps of a server, which its queue and `server.db` count together: see
//! [`check_server`](batchwright::queue::Store::check_server).

use std::path::Path;

use batchwright::unstable::ServerStep;
use batchwright::{Error, JobQueue, ProcessId};
use rusqlite::{Connection, params};

use super::{Records, failed, run};

/// Where a server stands.
pub(super) struct Steps {
    server: ServerStep,
    /// This start of it.
    run: String,
    has_begun: bool,
    /// That of `server.db`, which follows the queue.
    noted: i64,
}

impl Steps {
    pub(super) fn of(database: &Connection) -> Result<Self, Error> {
        let find = "SELECT s.value, n.value FROM meta s JOIN meta n ON n.name = 'step' WHERE s.name = 'server'";
        let found = database.query_row(find, [], |row| Ok((row.get(0)?, row.get(1)?)));
        let (id, step) = found.map_err(|error| failed(database, &error))?;
        let place = String::new();
        Ok(Self {
            server: ServerStep { id, step, place },
            run: ProcessId::new().to_string(),
            has_begun: false,
            noted: step,
        })
    }
}

impl Records {
    /// Begins to count the steps with this queue: from the later one of both on.
    ///
    /// # Errors
    /// When one of both cannot be read or written; then the next step tries it again.
    pub fn begin(&self, path: &Path, queue: &JobQueue) -> Result<(), Error> {
        {
            let mut steps = self.steps.lock();
            steps.server.place = queue.server_place(path);
            let known = queue.servers()?;
            let known = known.iter().find(|known| known.id == steps.server.id);
            steps.server.step = steps.noted.max(known.map_or(0, |known| known.step));
        }
        self.step(queue)
    }

    /// Counts a step before it is taken, in the queue first. Both survive a power cut.
    ///
    /// # Errors
    /// When that cannot be written; when another server has begun with a copy of `server.db`.
    pub fn step(&self, queue: &JobQueue) -> Result<(), Error> {
        let mut steps = self.steps.lock();
        let steps = &mut *steps;
        if steps.has_begun {
            self.note(steps)?;
        }
        let mut next = steps.server.clone();
        next.step += 1;
        queue.note_step(&next, &steps.run, !steps.has_begun)?;
        (steps.server, steps.has_begun) = (next, true);
        self.note(steps)
    }

    fn note(&self, steps: &mut Steps) -> Result<(), Error> {
        let step = steps.server.step;
        if steps.noted == step {
            return Ok(());
        }
        let database = self.single();
        let level: i64 = (database.pragma_query_value(None, "synchronous", |row| row.get(0)))
            .map_err(|error| failed(&database, &error))?;
        let sync = |level: i64| {
            let set = database.pragma_update(None, "synchronous", level);
            set.map_err(|error| failed(&database, &error))
        };
        // Full.
        sync(2)?;
        let note = "UPDATE meta SET value = ? WHERE name = 'step'";
        let noted = run(&database, note, params![step]);
        sync(level)?;
        noted?;
        steps.noted = step;
        Ok(())
    }
}
