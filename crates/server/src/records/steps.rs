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
        let find = "SELECT value FROM meta WHERE name = 'server'";
        let found = database.query_row(find, [], |row| row.get(0));
        let id = found.map_err(|error| failed(database, &error))?;
        Ok(Self {
            server: ServerStep {
                id,
                ..ServerStep::default()
            },
            run: ProcessId::new().to_string(),
            has_begun: false,
            noted: 0,
        })
    }
}

impl Records {
    /// Begins to count the steps with this queue: from the later one of both on.
    ///
    /// # Errors
    /// When one of both cannot be read or written; then the next step tries it again.
    pub fn begin(&self, path: &Path, queue: &JobQueue) -> Result<(), Error> {
        self.steps.lock().server.place = queue.server_place(path);
        self.step(queue)
    }

    /// Counts a step before it is taken, in the queue first. Both survive a power cut.
    ///
    /// # Errors
    /// When that cannot be written; when another server has begun with a copy of `server.db`.
    pub fn step(&self, queue: &JobQueue) -> Result<(), Error> {
        let mut steps = self.steps.lock();
        let steps = &mut *steps;
        if !steps.has_begun {
            steps.noted = self.noted(queue)?;
            let known = queue.servers()?;
            let known = known.iter().find(|known| known.id == steps.server.id);
            steps.server.step = steps.noted.max(known.map_or(0, |known| known.step));
        }
        // The queue is never two steps ahead, however often this fails.
        self.note(steps, queue)?;
        let mut next = steps.server.clone();
        next.step += 1;
        queue.note_step(&next, &steps.run, !steps.has_begun)?;
        (steps.server, steps.has_begun) = (next, true);
        self.note(steps, queue)
    }

    fn noted(&self, queue: &JobQueue) -> Result<i64, Error> {
        let database = self.single();
        let find = "SELECT ifnull(max(value), 0) FROM meta WHERE name = 'step ' || ?";
        let found = database.query_row(find, params![queue.id()], |row| row.get(0));
        found.map_err(|error| failed(&database, &error))
    }

    fn note(&self, steps: &mut Steps, queue: &JobQueue) -> Result<(), Error> {
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
        let note = "INSERT INTO meta VALUES ('step ' || ?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        let noted = run(&database, note, params![queue.id(), step]);
        sync(level)?;
        noted?;
        steps.noted = step;
        Ok(())
    }
}
