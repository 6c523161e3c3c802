//! Lines of JSON, one at a time in memory, and the names of their jobs.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, Read as _};

use batchwright::Job;

/// The byte order mark that some programs write at the start of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The buffer shrinks to this size after a long line.
const SHORT: usize = 64 << 10;

/// The lines of a text that are not blank, without a byte order mark at its start.
#[derive(Debug)]
pub struct JobLines<R> {
    reader: R,
    most: u64,
    /// The number of the last line, from 1.
    pub number: u64,
    /// How many bytes were read.
    pub bytes: u64,
    line: Vec<u8>,
}

impl<R: BufRead> JobLines<R> {
    /// Lines of at most this many bytes.
    pub fn new(reader: R, most: u64) -> Self {
        Self {
            reader,
            most,
            number: 0,
            bytes: 0,
            line: Vec::new(),
        }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read; of the kind `FileTooLarge` when it is too long.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        let start = loop {
            self.line.clear();
            self.line.shrink_to(SHORT);
            self.number += 1;
            let mut bounded = (&mut self.reader).take(self.most + 1);
            let read = bounded.read_until(b'\n', &mut self.line)? as u64;
            self.bytes += read;
            if read > self.most {
                let why = format!("longer than {} MiB", self.most >> 20);
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
            }
            if read == 0 {
                return Ok(None);
            }
            let has_mark = self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK);
            let start = if has_mark { BYTE_ORDER_MARK.len() } else { 0 };
            if !self.line[start..].trim_ascii().is_empty() {
                break start;
            }
        };
        Ok(Some(&self.line[start..]))
    }
}

/// The names of jobs that arrive one after the other, by their hashes, each with how often it was wanted.
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
