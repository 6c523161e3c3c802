//! Names of jobs that arrive one after the other, as lines of a file or of a body.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};

use batchwright::Job;

/// The names in use, by their hashes, each with how many others were made of it.
#[derive(Debug, Default)]
pub struct JobNames {
    taken: HashMap<(u64, u64), u32>,
    hash: (RandomState, RandomState),
}

impl JobNames {
    /// Gives the job this name. Without one, the job keeps its own, or gets one made from its request; if that is in use,
    /// with a number.
    ///
    /// # Errors
    /// The name, if it is in use.
    pub fn name(&mut self, job: Job, name: Option<String>) -> Result<Job, String> {
        if let Some(name) = name {
            if !self.take(&name) {
                return Err(name);
            }
            return Ok(job.item_id(name));
        }
        let made = || Some(job.request_hash.as_ref()?[..16].to_owned());
        let Some(own) = job.item_id.clone().or_else(made) else {
            return Ok(job);
        };
        if self.take(&own) {
            return Ok(job.item_id(own));
        }
        let key = self.key(&own);
        loop {
            let repeats = self.taken.entry(key).or_insert(1);
            *repeats += 1;
            let name = format!("{own}-{repeats}");
            if self.take(&name) {
                return Ok(job.item_id(name));
            }
        }
    }

    fn key(&self, name: &str) -> (u64, u64) {
        (self.hash.0.hash_one(name), self.hash.1.hash_one(name))
    }

    /// Whether the name was free.
    fn take(&mut self, name: &str) -> bool {
        match self.taken.entry(self.key(name)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(1);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use batchwright::Request;

    use super::*;

    #[test]
    fn names_are_given_once_and_made_ones_get_a_number() {
        let mut names = JobNames::default();
        let job = || Job::from(&Request::new("hello"));
        let mut named = |name: Option<&str>| {
            let named = names.name(job(), name.map(str::to_owned));
            named.map(|job| job.item_id.unwrap())
        };
        assert_eq!(named(Some("a")).as_deref(), Ok("a"));
        assert_eq!(named(Some("a")), Err("a".to_owned()));
        let own = named(None).unwrap();
        assert_eq!(named(Some(&format!("{own}-2"))), Ok(format!("{own}-2")));
        assert_eq!(named(None), Ok(format!("{own}-3")));
    }
}
