//! Items that share a call: texts to embed. To the engine, a pack is one task with one history; an item that is alone is
//! a pack of one.
//!
//! Packs are formed where items are read. A pack waits and is retried as it is. If one of its items may have caused a
//! failure of all, each of them goes on alone.

use crate::engine::route::Tries;

/// Maximum size of one embedding call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct PackLimits {
    /// Texts, at least 1.
    pub inputs: u16,
    /// Estimated tokens of all texts together; a single text may have more.
    pub tokens: u32,
}

impl PackLimits {
    /// One call per text.
    pub const ONE: Self = Self {
        inputs: 1,
        tokens: u32::MAX,
    };

    /// The stricter of both limits.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            inputs: self.inputs.min(other.inputs).max(1),
            tokens: self.tokens.min(other.tokens),
        }
    }

    /// Whether a text with this many tokens fits into a call that has `texts` texts and `tokens` tokens.
    pub(crate) fn fits(self, texts: usize, tokens: u32, more: u32) -> bool {
        texts < self.inputs.into() && tokens.saturating_add(more) <= self.tokens
    }
}

/// The items of one call: at least one.
pub(crate) type Pack<T> = Vec<T>;

/// The next calls for the items of a pack: the same one, or one for each item if that was decided meanwhile.
pub(crate) fn next_calls<T>(pack: Pack<T>, limits: PackLimits, tries: &Tries) -> Vec<Pack<T>> {
    if limits.inputs <= 1 || tries.alone {
        pack.into_iter().map(|item| vec![item]).collect()
    } else {
        vec![pack]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_waits_as_it_is_until_it_is_divided_or_limits_are_lower() {
        let mut tries = Tries::default();
        let limits = PackLimits {
            inputs: 8,
            tokens: 100,
        };
        let next = |limits, tries: &Tries| next_calls(vec![1, 2, 3], limits, tries);
        assert_eq!(next(limits, &tries), [[1, 2, 3]]);
        // A client may have found meanwhile that its server takes single texts.
        assert_eq!(next(PackLimits::ONE, &tries), [[1], [2], [3]]);
        tries.alone = true;
        assert_eq!(next(limits, &tries), [[1], [2], [3]]);
    }
}
