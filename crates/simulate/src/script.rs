//! Which prompt meets which trouble: a pure function of the seed and the prompt's text, so a test can compute in
//! advance what a run will meet. `ledger` stores how often a prompt has met its trouble.

use super::Trouble;

const KINDS: usize = Trouble::ALL.len();

/// The shares of prompts that meet each kind, and how many calls of a prompt do.
#[derive(Debug, Clone)]
pub(super) struct Script {
    shares: [f64; KINDS],
    times: [Option<u32>; KINDS],
}

impl Default for Script {
    fn default() -> Script {
        Script {
            shares: [0.0; KINDS],
            times: std::array::from_fn(|kind| Trouble::ALL[kind].times()),
        }
    }
}

impl Script {
    pub(super) fn set_share(&mut self, kind: Trouble, share: f64) {
        self.shares[kind as usize] = share;
    }

    pub(super) fn set_times(&mut self, kind: Trouble, times: Option<u32>) {
        self.times[kind as usize] = times;
    }

    /// The kind that the prompt with this key meets.
    pub(super) fn plan(&self, seed: u64, key: u64) -> Option<Trouble> {
        let place = unit(key ^ mix(seed));
        let mut end = 0.0;
        Trouble::ALL.iter().copied().find(|kind| {
            end += self.shares[*kind as usize];
            place < end
        })
    }

    /// Whether a prompt that met `kind` `met` times meets it again.
    pub(super) fn continues(&self, kind: Trouble, met: u32) -> bool {
        self.times[kind as usize].is_none_or(|times| met < times)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        for kind in Trouble::ALL.iter().copied() {
            let share = self.shares[kind as usize];
            if !(0.0..=1.0).contains(&share) {
                return Err(format!(
                    "the rate of trouble {kind} is {share}; it must be from 0 to 1"
                ));
            }
        }
        let sum: f64 = self.shares.iter().sum();
        // Ten shares of 0.1 add up to a little more or less than one.
        if sum > 1.0 + 1e-9 {
            return Err(format!(
                "the rates of trouble add up to {sum}; they must not pass 1"
            ));
        }
        Ok(())
    }
}

/// The number by which a prompt is known: a hash of the text of its last user message.
///
/// The standard library's hasher may change between releases; this one is fixed, so a seed means the
/// same run everywhere and for ever.
pub(super) fn prompt_key(text: &str) -> u64 {
    let (words, rest) = text.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // Every word is mixed in completely. With only a multiplication, thousands of prompts that differ in two
    // neighbouring numbers would collide.
    let start = mix(text.len() as u64);
    let state = words
        .iter()
        .fold(start, |state, word| mix(state ^ u64::from_le_bytes(*word)));
    mix(state ^ u64::from_le_bytes(last))
}

/// A number from 0 up to but not including 1, evenly spread over all values of `seed`.
pub(super) fn unit(seed: u64) -> f64 {
    (mix(seed) >> 11) as f64 / (1u64 << 53) as f64
}

/// The finishing step of SplitMix64: every input bit reaches every output bit.
pub(super) fn mix(seed: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn half_and_tenth() -> Script {
        let mut script = Script::default();
        script.set_share(Trouble::Error500, 0.5);
        script.set_share(Trouble::Quota, 0.1);
        script
    }

    #[test]
    fn the_shares_come_out_over_many_prompts() {
        let script = half_and_tenth();
        let plans: Vec<_> = (0..20_000)
            .map(|n| script.plan(7, prompt_key(&format!("prompt {n}"))))
            .collect();
        let count = |wanted| plans.iter().filter(|plan| **plan == wanted).count();
        assert!((9_700..10_300).contains(&count(Some(Trouble::Error500))));
        assert!((1_850..2_150).contains(&count(Some(Trouble::Quota))));
        assert!((7_700..8_300).contains(&count(None)));
    }

    #[test]
    fn keys_are_fixed_for_ever() {
        assert_eq!(prompt_key(""), 12_035_550_249_420_947_055);
        assert_eq!(prompt_key("hello, world"), 9_893_598_328_516_690_321);
        assert_ne!(prompt_key("a"), prompt_key("a\0"));
    }

    #[test]
    fn keys_of_numbered_prompts_do_not_collide() {
        let mut keys = HashSet::new();
        for first in 0..64 {
            for second in 0..2_000 {
                keys.insert(prompt_key(&format!("prompt {first} {second} Be brief.")));
            }
        }
        assert_eq!(keys.len(), 64 * 2_000);
    }

    #[test]
    fn shares_outside_their_range_are_refused() {
        let mut script = half_and_tenth();
        assert_eq!(script.check(), Ok(()));
        script.set_share(Trouble::Drop, 0.5);
        assert!(script.check().unwrap_err().contains("add up"));
        script.set_share(Trouble::Drop, f64::NAN);
        assert!(script.check().unwrap_err().contains("drop"));
    }
}
