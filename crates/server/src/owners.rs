//! Objects and their owners: a token that sees only its own finds no others.

use batchwright::{Error, JobId, ProcessId};

use crate::app::App;
use crate::http::Call;
use crate::problem::Problem;
use crate::records::batches::BatchRecord;
use crate::records::files::{FileRecord, now};
use crate::records::owners;
use crate::tokens::Caller;

/// Names in paths and queries whose values are ids of objects with an owner.
const OBJECTS: [&str; 4] = ["process_id", "job_id", "file_id", "batch_id"];

impl App {
    /// # Errors
    /// 404 if the path or the query names an object that the caller does not see, as if it did not exist.
    pub fn check_owner(&self, call: &Call<'_>) -> Result<(), Problem> {
        if call.caller.only().is_none() {
            return Ok(());
        }
        let params = call.params.iter().map(|(name, id)| (*name, id));
        let query = call.head.query.iter().map(|(name, id)| (name.as_str(), id));
        for (name, id) in params.chain(query) {
            if let Some(known) = OBJECTS.iter().find(|known| **known == name)
                && !call.caller.sees(self.owner_of(known, id)?.as_deref())
            {
                let what = known.trim_end_matches("_id");
                let why = format!("the {what} {id} does not exist, or belongs to another token");
                return Err(Problem::not_found(why).param(*known));
            }
        }
        Ok(())
    }

    /// The owner of an object, if both exist.
    fn owner_of(&self, name: &str, id: &str) -> Result<Option<String>, Error> {
        let mut database = self.records.single();
        match name {
            "file_id" => Ok(FileRecord::get(&mut database, id)?.and_then(|file| file.owner)),
            "batch_id" => Ok(BatchRecord::get(&mut database, id)?.and_then(|batch| batch.owner)),
            "job_id" => match id.parse::<JobId>() {
                Ok(job) => match self.queue.job(job)? {
                    Some(job) => self.owner_of_process(job.process_id),
                    None => owners::owner(&mut database, id),
                },
                Err(_) => Ok(None),
            },
            _ => match id.parse::<ProcessId>() {
                Ok(process) => match self.queue.process(process)? {
                    Some(process) => Ok(process.info.owner),
                    None => owners::owner(&mut database, id),
                },
                Err(_) => Ok(None),
            },
        }
    }

    /// Records that a job or a process is the caller's, for this number of seconds, so that the caller may still name it
    /// when it no longer exists. Callers that see all objects need no record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_owner(&self, caller: &Caller, id: String, seconds: u64) -> Result<(), Error> {
        match caller.only() {
            Some(owner) => {
                let mut database = self.records.single();
                owners::keep_owner(&mut database, &id, owner, now() + seconds)
            }
            None => Ok(()),
        }
    }

    /// Forgets the recorded owner of a process that no longer exists.
    ///
    /// # Errors
    /// When the record cannot be deleted.
    pub fn forget_owner(&self, id: &str) -> Result<(), Error> {
        let mut database = self.records.single();
        owners::forget_owner(&mut database, id)
    }

    fn owner_of_process(&self, process: ProcessId) -> Result<Option<String>, Error> {
        let known = self.queue.process(process)?;
        Ok(known.and_then(|process| process.info.owner))
    }

    /// Whether the caller sees this process.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sees(&self, caller: &Caller, process: ProcessId) -> Result<bool, Error> {
        match caller.only() {
            None => Ok(true),
            Some(_) => Ok(caller.sees(self.owner_of_process(process)?.as_deref())),
        }
    }

    /// The open jobs of the caller, if their number is limited.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn open_jobs(&self, caller: &Caller) -> Result<u64, Error> {
        match (caller.limits.open_jobs, &caller.name) {
            (Some(_), Some(name)) => self.queue.open_jobs_of(name),
            _ => Ok(0),
        }
    }

    /// # Errors
    /// 429 if the caller may not have this number of open jobs in addition to those that it has; 413 if it may never have this number.
    pub fn check_quotas(&self, caller: &Caller, more: u64) -> Result<(), Problem> {
        caller.check_open_jobs(self.open_jobs(caller)?, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::routes;

    /// A path with the id of an object whose owner is not looked up would show it to everybody.
    #[test]
    fn every_id_in_a_path_has_an_owner() {
        for route in routes() {
            let names = route
                .path
                .split('/')
                .filter_map(|part| part.strip_prefix('{'));
            for name in names.map(|name| name.trim_end_matches('}')) {
                let is_shared = ["key", "model"].contains(&name);
                assert!(is_shared || OBJECTS.contains(&name), "{}", route.path);
            }
        }
    }
}
