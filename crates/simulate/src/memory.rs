//! The stored data of each prompt, small enough for a million of them. `ledger` uses it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// All prompts seen.
#[derive(Debug, Default)]
pub(super) struct Prompts {
    map: HashMap<Prompt, Memory, BuildHasherDefault<Ready>>,
}

/// The stored data of one prompt.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Only ever compared for equality, so it may wrap.
    pub(super) calls: u8,
    /// Calls of unknown outcome that no other call has followed yet.
    pub(super) uncertain: u8,
    /// How many calls met the prompt's trouble, up to 255.
    pub(super) met: u8,
    pub(super) paid: bool,
}

impl Prompts {
    /// The memory of a prompt, new if it has not been seen.
    pub(super) fn meet(&mut self, key: u64) -> &mut Memory {
        self.map.entry(Prompt::new(key)).or_default()
    }

    pub(super) fn get(&mut self, key: u64) -> Option<&mut Memory> {
        self.map.get_mut(&Prompt::new(key))
    }

    pub(super) fn count(&self) -> u64 {
        self.map.len() as u64
    }
}

/// A prompt's key in halves: with four-byte alignment an entry takes 12 bytes instead of 16.
#[derive(Debug, PartialEq, Eq)]
struct Prompt {
    high: u32,
    low: u32,
}

impl Prompt {
    fn new(key: u64) -> Prompt {
        Prompt {
            high: (key >> 32) as u32,
            low: key as u32,
        }
    }
}

impl Hash for Prompt {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.high) << 32 | u64::from(self.low));
    }
}

/// Keys are hashes already, mixed so well that they need no second hash.
#[derive(Debug, Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_stays_small_enough_for_a_million_prompts() {
        assert_eq!(size_of::<(Prompt, Memory)>(), 12);
    }

    #[test]
    fn prompts_that_share_half_a_key_are_told_apart() {
        let mut prompts = Prompts::default();
        for key in [1, 1 << 32, 1 << 32 | 1, 1] {
            prompts.meet(key).calls += 1;
        }
        assert_eq!(prompts.count(), 3);
        assert_eq!(prompts.get(1).map(|memory| memory.calls), Some(2));
        assert!(prompts.get(2).is_none());
    }
}
