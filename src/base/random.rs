//! Pseudorandom numbers.

/// A generator whose numbers follow from its seed: SplitMix64 (Steele, Lea, Flood 2014). They are well distributed and
/// not secret.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub u64);

impl Random {
    /// The next number, from 0 to less than 1.
    pub(crate) fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    impl super::Random {
        /// A number below `end`; 0 if `end` is 0.
        pub(crate) fn below(&mut self, end: u64) -> u64 {
            ((self.share() * end as f64) as u64).min(end.saturating_sub(1))
        }

        /// An index of a list of this length.
        pub(crate) fn index(&mut self, length: usize) -> usize {
            self.below(length as u64) as usize
        }

        /// True in `percent` of 100 cases.
        pub(crate) fn chance(&mut self, percent: u64) -> bool {
            self.below(100) < percent
        }
    }
}
