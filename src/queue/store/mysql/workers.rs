//! Workers: whether their leases are valid.

use std::borrow::Cow;

use crate::base::Error;
use crate::base::host::host;
use crate::queue::store::rows::{NO_CHORE, count};
use crate::queue::store::workers::{ListedWorker, Registry};
use crate::queue::store::{ClaimOutcome, Settlement, Store, WorkerId, Workers};

use super::Mysql;
use super::open::VERSION;
use super::writer::{CLOCK, Fault, Queries as _, Statements, by, list, too_large};

impl Store {
    /// Whether a worker of another process has jobs and has not renewed its lease since this store's workers ran out of
    /// jobs. A worker that ends when no job is left waits for that renewal, or until these jobs are taken over.
    pub(in crate::queue::store) fn await_silent(&self, db: &Mysql) -> Result<bool, Error> {
        #[cfg(test)]
        if !db.awaits_others {
            return Ok(false);
        }
        let Some(idle) = self.workers.idle_for() else {
            return Ok(false);
        };
        // In half of its lease, a living worker has renewed it.
        let half = db.heartbeat.0.lease / 2;
        let is_silent = if idle < half {
            String::new()
        } else {
            format!("AND w.lease_until <= {CLOCK} + {}", half.as_millis())
        };
        let silent = format!(
            "SELECT 1 FROM #workers w WHERE w.lease_until > 0 AND w.no NOT IN {} {is_silent}
               AND EXISTS (SELECT 1 FROM #jobs j WHERE j.worker = w.no) LIMIT 1",
            list([0].into_iter().chain(self.workers.numbers()))
        );
        self.read(|tx| tx.exists(&silent, Vec::new()))
    }
}

impl Mysql {
    /// Adds the row of a worker, with its former number if it had one.
    pub(in crate::queue::store) fn enlist(
        &self,
        tx: &mut dyn Statements,
        no: Option<i64>,
    ) -> Result<u64, Fault> {
        let enlist = format!(
            "INSERT INTO #workers (no, pid, host, lease_until) VALUES (?, ?, ?, {})",
            self.heartbeat.0.until()
        );
        // Cut to the size of the column.
        let host: String = host().chars().take(255).collect();
        tx.run(&enlist, by![no, std::process::id(), host])
    }

    /// Lists the quotas that a worker uses.
    pub(in crate::queue::store) fn list_quotas(
        &self,
        worker: WorkerId,
        quotas: &[u64],
    ) -> Result<(), Error> {
        let keys: Vec<String> = quotas.iter().map(u64::to_string).collect();
        let keys = keys.join(" ");
        let list = "UPDATE #workers SET quotas = ? WHERE no = ?";
        self.database
            .aside(|tx| tx.run(list, by![keys.clone(), worker.0]).map(drop))
    }

    /// These ends, with failures in place of results that are too large for the server.
    pub(in crate::queue::store) fn fitting<'a>(
        &self,
        ends: &'a [Settlement],
    ) -> Cow<'a, [Settlement]> {
        let most = self.database.most_value();
        if ends.iter().all(|end| is_fitting(end, most)) {
            return Cow::Borrowed(ends);
        }
        ends.iter().map(|end| fitting(end, most)).collect()
    }

    /// All workers, and what a worker looks at every second, with one statement. A worker of this store never counts as
    /// dead: its lease is renewed as soon as the database can be reached.
    pub(in crate::queue::store) fn look(
        &self,
        workers: &Registry,
    ) -> Result<(Vec<ListedWorker>, Workers), Error> {
        let look = format!(
            "SELECT no, pid, host, lease_until, lease_until <= {CLOCK}, quotas, ({VERSION}),
               EXISTS(SELECT 1 FROM #processes WHERE chore > {NO_CHORE})
             FROM #workers ORDER BY no"
        );
        let (mut all, mut found) = (Vec::new(), Workers::default());
        let mut is_late = false;
        self.database.read(|tx| {
            all.clear();
            for mut row in tx.rows(&look, Vec::new())? {
                let no = row.at(0)?;
                let (has_ended, is_over) = (row.at::<i64>(3)? == 0, row.at(4)?);
                let is_own = workers.has(no);
                is_late |= is_own && is_over && !has_ended;
                (found.version, found.has_chores) = (count(row.at(6)?), row.at(7)?);
                let quotas: Option<String> = row.at(5)?;
                let worker = ListedWorker {
                    no,
                    pid: row.at(1)?,
                    host: row.at(2)?,
                    is_dead: is_over && !is_own,
                    quotas: numbers(&quotas.unwrap_or_default()),
                    sign: None,
                };
                all.push((worker, has_ended));
            }
            Ok(())
        })?;
        if is_late {
            // The lease of another living owner can have expired too: the machines were suspended, or the clock of the
            // database was set forward.
            self.database.unsteady();
        }
        let can_tell = self.heartbeat.can_tell();
        let all = all.into_iter().map(|(mut worker, has_ended)| {
            worker.is_dead &= has_ended || can_tell;
            worker
        });
        Ok((all.collect(), found))
    }
}

fn numbers(list: &str) -> Vec<u64> {
    let list = list.split(' ');
    list.filter_map(|number| number.parse().ok()).collect()
}

/// Whether the server accepts the result.
fn is_fitting(end: &Settlement, most: usize) -> bool {
    match &end.outcome {
        ClaimOutcome::Completed { result, .. }
        | ClaimOutcome::Failed {
            result: Some(result),
            ..
        } => result.get().len() <= most,
        _ => true,
    }
}

/// The same end, or a failure in place of a result that is too large: otherwise its worker would try in vain to save it, and
/// no other end with it.
fn fitting(end: &Settlement, most: usize) -> Settlement {
    let mut end = end.clone();
    if is_fitting(&end, most) {
        return end;
    }
    match &mut end.outcome {
        ClaimOutcome::Completed { result, spent } => {
            end.outcome = ClaimOutcome::Failed {
                error: too_large("the result", result.get().len(), most),
                result: None,
                spent: spent.take(),
            };
        }
        ClaimOutcome::Failed { result, .. } => *result = None,
        _ => {}
    }
    end
}
