//! Names of jobs that arrive one after the other, as lines of a file or of a body.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use batchwright::Job;

/// The names in use, by their hashes, each with how often it was wanted.
#[derive(Debug, Default)]
pub struct JobNames {
    wanted: HashMap<(u64, u64), u32>,
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
            return match self.want(&name) {
                1 => Ok(job.item_id(name)),
                _ => Err(name),
            };
        }
        let made = || Some(job.request_hash.as_ref()?[..16].to_owned());
        let Some(own) = job.item_id.clone().or_else(made) else {
            return Ok(job);
        };
        let (mut name, mut times) = (own.clone(), self.want(&own));
        while times > 1 {
            name = format!("{own}-{times}");
            times = match self.want(&name) {
                1 => 1,
                _ => self.want(&own),
            };
        }
        Ok(job.item_id(name))
    }

    /// How often the name was wanted, with this time.
    fn want(&mut self, name: &str) -> u32 {
        let key = (self.hash.0.hash_one(name), self.hash.1.hash_one(name));
        let times = self.wanted.entry(key).or_default();
        *times += 1;
        *times
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
