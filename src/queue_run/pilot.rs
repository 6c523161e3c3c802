//! Pilots of a run in batches: requests that write a prompt cache before the batches that read it are submitted.
//!
//! The requests of a batch are processed at the same time, so without a pilot each of them would write the cache, which
//! costs more than an ordinary request. A call does not do: its cache was not read by batches (anthropics/skills, issue
//! 1475). So one request of each shared beginning is submitted in a batch by itself. Its other requests are submitted when
//! the pilot has its answer, marked only if it has written or read the cache. They wait at most [`LONGEST`]; requests with
//! other beginnings do not wait.
//!
//! Pure: the time is a value.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::clock::{Time, Timestamp};
use crate::base::usage::Usage;
use crate::config::choices::CachePrompt;
use crate::llm::params::CacheLifetime;
use crate::llm::prompt_cache::{CacheRule, PromptPrefix, caches_in_batches, writes_cost};
use crate::money::prices::Prices;

/// How long requests wait for their pilot.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Pilots of a run; further beginnings are not cached.
const MOST: usize = 16;

/// Which beginnings a run in batches caches.
#[derive(Clone)]
pub(super) struct Rule {
    pub mode: CachePrompt,
    pub prices: Prices,
    pub provider: String,
    /// The address of its API.
    pub address: String,
    /// The model of requests that name none.
    pub model: Option<String>,
    /// Whether there is time to wait for pilots. Without it, nothing is cached.
    pub may_wait: bool,
}

/// The requests to submit that share a beginning.
#[derive(Debug, Clone)]
pub(super) struct Sharing {
    pub model: Option<String>,
    pub requests: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The pilot is not chosen yet.
    New,
    /// The id of the pilot's item, and since when the others wait.
    Sent(String, Time),
    /// The others may be marked or not.
    Over(bool),
}

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Submit(Option<CacheLifetime>),
    /// As the pilot of its beginning.
    Pilot,
    Hold,
}

/// The pilots of a run.
#[derive(Default)]
pub(super) struct Pilots {
    states: HashMap<PromptPrefix, State>,
    /// Whether writing without a success of the pilot costs more.
    must_write: bool,
    /// Whether requests without a pilot wait until the pilots are in their batch.
    is_first: bool,
}

impl Pilots {
    /// Chooses the beginnings that get a pilot.
    pub(super) fn choose(
        rule: &Rule,
        sharing: &HashMap<PromptPrefix, Sharing>,
        at: Timestamp,
    ) -> Self {
        let prices = CacheRule {
            mode: rule.mode,
            prices: &rule.prices,
            tier: "batch",
            at,
        };
        let mut must_write = false;
        let wanted = sharing.iter().filter(|(prefix, sharing)| {
            let model = sharing.model.as_deref().or(rule.model.as_deref());
            let model = model.unwrap_or_default();
            rule.may_wait
                && sharing.requests > 1
                && caches_in_batches(&rule.provider, model, prefix.tokens)
                && prices.caches(
                    Some(sharing.requests),
                    (&rule.provider, &rule.address),
                    Some(model),
                )
        });
        let mut wanted: Vec<_> = wanted.collect();
        wanted.sort_by_key(|(prefix, sharing)| (std::cmp::Reverse(sharing.requests), prefix.hash));
        wanted.truncate(MOST);
        for (_, sharing) in &wanted {
            let model = sharing.model.as_deref().or(rule.model.as_deref());
            must_write |= writes_cost(&rule.provider, model.unwrap_or_default());
        }
        let states: HashMap<_, _> = wanted
            .into_iter()
            .map(|(prefix, _)| (*prefix, State::New))
            .collect();
        Self {
            is_first: !states.is_empty(),
            states,
            must_write,
        }
    }

    /// What to do with a request that begins like this.
    pub(super) fn decide(&self, prefix: Option<&PromptPrefix>) -> Decision {
        match prefix.and_then(|prefix| self.states.get(prefix)) {
            None if self.is_first => Decision::Hold,
            None => Decision::Submit(None),
            Some(State::New) => Decision::Pilot,
            Some(State::Sent(..)) => Decision::Hold,
            Some(State::Over(marked)) => Decision::Submit(marked.then_some(CacheLifetime::Hour)),
        }
    }

    /// The item of this id is the pilot of its beginning.
    pub(super) fn sent(&mut self, prefix: &PromptPrefix, id: &str, now: Time) {
        self.states.insert(*prefix, State::Sent(id.to_owned(), now));
    }

    /// The pilots are in their batch. Returns whether requests became free.
    pub(super) fn are_in_batch(&mut self) -> bool {
        std::mem::take(&mut self.is_first)
    }

    /// An item has its result. `usage` is that of a success. Returns whether requests became free.
    pub(super) fn ended(&mut self, id: &str, usage: Option<Option<Usage>>) -> bool {
        let pilot = |state: &&mut State| matches!(state, State::Sent(own, _) if own == id);
        let Some(state) = self.states.values_mut().find(pilot) else {
            return false;
        };
        let used = |usage: Usage| usage.cached_input_tokens + usage.cache_write_tokens > 0;
        let wrote = match usage {
            None => false,
            Some(usage) => !self.must_write || usage.is_some_and(used),
        };
        *state = State::Over(wrote);
        self.is_first = false;
        true
    }

    /// Whether results of pilots are awaited.
    pub(super) fn is_waiting(&self) -> bool {
        self.states
            .values()
            .any(|state| !matches!(state, State::Over(_)))
    }

    /// Gives up pilots that take too long, or all. Returns whether requests became free.
    pub(super) fn give_up(&mut self, all: bool, now: Time) -> bool {
        let mut any = false;
        for state in self.states.values_mut() {
            let late = match state {
                State::Over(_) => false,
                State::New => all,
                State::Sent(_, since) => all || now >= since.after(LONGEST),
            };
            if late {
                *state = State::Over(false);
                any = true;
            }
        }
        // Requests with other beginnings wait for the same time at most.
        if any || all {
            any |= std::mem::take(&mut self.is_first);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(hash: u64) -> PromptPrefix {
        PromptPrefix { hash, tokens: 3000 }
    }

    fn rule(mode: CachePrompt) -> Rule {
        Rule {
            mode,
            prices: Prices::default(),
            provider: "anthropic".to_owned(),
            address: "https://api.anthropic.com/v1".to_owned(),
            model: Some("claude-sonnet-4-5".to_owned()),
            may_wait: true,
        }
    }

    fn sharing(sizes: &[usize]) -> HashMap<PromptPrefix, Sharing> {
        let sizes = sizes.iter().zip(1..);
        let sharing = |(requests, hash): (&usize, u64)| {
            let sharing = Sharing {
                model: None,
                requests: *requests,
            };
            (prefix(hash), sharing)
        };
        sizes.map(sharing).collect()
    }

    fn pilots(rule: &Rule, sizes: &[usize]) -> Pilots {
        let at = Timestamp::from(std::time::SystemTime::now());
        Pilots::choose(rule, &sharing(sizes), at)
    }

    const HOUR: Decision = Decision::Submit(Some(CacheLifetime::Hour));
    const PLAIN: Decision = Decision::Submit(None);

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    fn wrote(tokens: u64) -> Option<Option<Usage>> {
        Some(Some(Usage {
            input_tokens: 3000,
            cache_write_tokens: tokens,
            ..Usage::default()
        }))
    }

    #[test]
    fn the_others_follow_marked_when_the_pilot_wrote_the_cache() {
        let mut pilots = pilots(&rule(CachePrompt::Auto), &[20, 3]);
        let (shared, few) = (prefix(1), prefix(2));
        assert_eq!(pilots.decide(Some(&shared)), Decision::Pilot);
        assert_eq!(
            pilots.decide(Some(&few)),
            Decision::Hold,
            "the pilot goes alone"
        );
        pilots.sent(&shared, "a", at(0));
        assert_eq!(pilots.decide(Some(&shared)), Decision::Hold);
        assert!(pilots.are_in_batch());
        assert_eq!(
            (pilots.decide(Some(&few)), pilots.decide(None)),
            (PLAIN, PLAIN)
        );
        assert!(!pilots.ended("b", wrote(3000)) && pilots.is_waiting());
        assert!(pilots.ended("a", wrote(3000)) && !pilots.is_waiting());
        assert_eq!(pilots.decide(Some(&shared)), HOUR);
    }

    #[test]
    fn the_others_are_not_marked_if_the_pilot_wrote_nothing_failed_or_took_too_long() {
        for end in [wrote(0), Some(None), None] {
            let mut pilots = pilots(&rule(CachePrompt::Auto), &[20]);
            pilots.sent(&prefix(1), "a", at(0));
            assert!(pilots.ended("a", end));
            assert_eq!(pilots.decide(Some(&prefix(1))), PLAIN, "{end:?}");
        }
        let mut pilots = pilots(&rule(CachePrompt::Auto), &[20, 20]);
        pilots.sent(&prefix(1), "a", at(0));
        pilots.sent(&prefix(2), "b", at(100));
        assert!(!pilots.give_up(false, at(899)));
        assert!(pilots.give_up(false, at(900)));
        assert_eq!(pilots.decide(Some(&prefix(1))), PLAIN);
        assert_eq!(pilots.decide(Some(&prefix(2))), Decision::Hold);
        assert!(pilots.give_up(true, at(900)) && !pilots.is_waiting());
    }

    #[test]
    fn there_is_no_pilot_without_time_or_for_a_provider_without_a_cache() {
        let none = |rule: &Rule| pilots(rule, &[20]).states.is_empty();
        let auto = rule(CachePrompt::Auto);
        assert!(!none(&auto));
        assert!(none(&rule(CachePrompt::Never)));
        assert!(none(&Rule {
            may_wait: false,
            ..auto.clone()
        }));
        assert!(none(&Rule {
            provider: "groq".to_owned(),
            ..auto.clone()
        }));
        assert!(none(&Rule {
            model: Some("claude-haiku-4-5".to_owned()),
            ..auto
        }));
        let many = pilots(&rule(CachePrompt::Always), &[2; 40]);
        assert_eq!(many.states.len(), MOST);
    }
}
