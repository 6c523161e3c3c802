//! Pilots of a run in batches: requests that write a prompt cache before the batches that read it are submitted.
//!
//! The requests of a batch are processed at the same time, so without a pilot each of them would write the cache, which
//! costs more than an ordinary request. A call does not do: its cache was not read by batches (anthropics/skills, issue
//! 1475). So one request of each shared beginning is submitted in a batch by itself. Its other requests are submitted when
//! the pilot has its answer, marked only if it has written or read the cache. They wait at most [`LONGEST`]; requests with
//! other beginnings do not wait. A run that continues another one within the lifetime of the cache relies on its pilots.
//!
//! Pure: the time is a value.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::{Timestamp, Usage};
use crate::config::choices::CachePrompt;
use crate::llm::params::CacheLifetime;
use crate::llm::prompt_cache::{CacheRule, PromptPrefix, caches_in_batches, is_warm, writes_cost};
use crate::money::prices::Prices;

use super::record::NotedPilot;

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

impl Rule {
    fn model_of<'a>(&'a self, own: Option<&'a str>) -> &'a str {
        own.or(self.model.as_deref()).unwrap_or_default()
    }

    /// Whether writing the cache of this model costs more than an ordinary request.
    fn must_write(&self, model: Option<&str>) -> bool {
        writes_cost(&self.provider, self.model_of(model))
    }
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
    Sent(String, Timestamp),
    /// Whether the others are marked, with the id of the pilot's item, and when its end was seen.
    Over(bool, String, Timestamp),
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
    /// By the hash of the beginning.
    states: HashMap<u64, State>,
    /// Whether writing without a success of the pilot costs more.
    must_write: bool,
    /// Whether requests without a pilot wait until the pilots are in their batch.
    is_first: bool,
    /// Whether a pilot has ended since the last portion.
    has_ended: bool,
}

impl Pilots {
    /// The pilots that an earlier run has noted.
    pub(super) fn of_earlier_run(noted: &[NotedPilot], rule: Option<&Rule>) -> Self {
        let Some(rule) = rule else {
            return Self::default();
        };
        let state = |noted: &NotedPilot| match noted.marks {
            None => State::Sent(noted.item.clone(), noted.at),
            Some(marks) => State::Over(marks, noted.item.clone(), noted.at),
        };
        let states = noted.iter().map(|noted| (noted.prefix, state(noted)));
        Self {
            states: states.collect(),
            must_write: rule.must_write(None),
            ..Self::default()
        }
    }

    /// What a run that continues this one needs to know.
    pub(super) fn noted(&self) -> Vec<NotedPilot> {
        let noted = |(prefix, state): (&u64, &State)| {
            let (item, at, marks) = match state {
                State::New => return None,
                State::Sent(item, at) => (item, at, None),
                State::Over(marks, item, at) => (item, at, Some(*marks)),
            };
            Some(NotedPilot {
                prefix: *prefix,
                item: item.clone(),
                at: *at,
                marks,
            })
        };
        self.states.iter().filter_map(noted).collect()
    }

    /// Chooses the beginnings that get a pilot. One of an earlier run is used if it has not ended, or if its cache lasts.
    pub(super) fn choose(
        &mut self,
        rule: &Rule,
        sharing: &HashMap<PromptPrefix, Sharing>,
        at: Timestamp,
    ) {
        let prices = CacheRule {
            mode: rule.mode,
            prices: &rule.prices,
            tier: "batch",
            at,
        };
        let wanted = sharing.iter().filter(|(prefix, sharing)| {
            let model = rule.model_of(sharing.model.as_deref());
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
        let mut earlier = std::mem::take(&mut self.states);
        self.has_ended = false;
        for (prefix, sharing) in wanted {
            self.must_write |= rule.must_write(sharing.model.as_deref());
            let model = rule.model_of(sharing.model.as_deref());
            let lasts = |state: &State| match state {
                State::Over(_, _, ended) => is_warm(model, *ended, at),
                _ => true,
            };
            let known = earlier.remove(&prefix.hash).filter(lasts);
            self.states.insert(prefix.hash, known.unwrap_or(State::New));
        }
        self.is_first = self.states.values().any(|state| *state == State::New);
    }

    /// What to do with a request that begins like this.
    pub(super) fn decide(&self, prefix: Option<&PromptPrefix>) -> Decision {
        match prefix.and_then(|prefix| self.states.get(&prefix.hash)) {
            None if self.is_first => Decision::Hold,
            None => Decision::Submit(None),
            Some(State::New) => Decision::Pilot,
            Some(State::Sent(..)) => Decision::Hold,
            Some(State::Over(marked, ..)) => {
                Decision::Submit(marked.then_some(CacheLifetime::Hour))
            }
        }
    }

    /// The item of this id is the pilot of its beginning.
    pub(super) fn sent(&mut self, prefix: &PromptPrefix, id: &str, now: Timestamp) {
        let sent = State::Sent(id.to_owned(), now);
        self.states.insert(prefix.hash, sent);
    }

    /// An item has its result. `usage` is that of a success. Returns whether it is a pilot.
    pub(super) fn ended(&mut self, id: &str, usage: Option<Option<Usage>>, now: Timestamp) -> bool {
        let pilot = |state: &&mut State| matches!(state, State::Sent(own, _) if own == id);
        let Some(state) = self.states.values_mut().find(pilot) else {
            return false;
        };
        let used = |usage: Usage| usage.cached_input_tokens + usage.cache_write_tokens > 0;
        let wrote = match usage {
            None => false,
            Some(usage) => !self.must_write || usage.is_some_and(used),
        };
        *state = State::Over(wrote, id.to_owned(), now);
        self.is_first = false;
        self.has_ended = true;
        true
    }

    /// Pilots whose jobs are gone without a result are chosen again. Returns whether there is any.
    pub(super) fn lost(&mut self, is_gone: impl Fn(&str) -> bool) -> bool {
        let mut any = false;
        for state in self.states.values_mut() {
            if matches!(state, State::Sent(item, _) if is_gone(item)) {
                *state = State::New;
                any = true;
            }
        }
        self.has_ended |= any;
        any
    }

    /// Whether results of pilots are awaited.
    pub(super) fn is_waiting(&self) -> bool {
        let is_over = |state: &State| matches!(state, State::Over(..));
        !self.states.values().all(is_over)
    }

    /// Whether more requests became free. `are_taken` if the pilots are in their batch: until then, other requests would
    /// get into it. Pilots that take too long are given up, and all of them if `is_over`.
    pub(super) fn advance(&mut self, are_taken: bool, is_over: bool, now: Timestamp) -> bool {
        let mut is_free = std::mem::take(&mut self.has_ended);
        for state in self.states.values_mut() {
            let item = match state {
                State::New if is_over => String::new(),
                State::Sent(item, since) if is_over || now >= since.after(LONGEST) => {
                    std::mem::take(item)
                }
                _ => continue,
            };
            *state = State::Over(false, item, now);
            is_free = true;
        }
        // Requests with other beginnings wait for the same time at most.
        if are_taken || is_free || is_over {
            is_free |= std::mem::take(&mut self.is_first);
        }
        is_free
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

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
        let mut pilots = Pilots::default();
        pilots.choose(rule, &sharing(sizes), at(0));
        pilots
    }

    const HOUR: Decision = Decision::Submit(Some(CacheLifetime::Hour));
    const PLAIN: Decision = Decision::Submit(None);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_700_000 + seconds))
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
        assert!(pilots.advance(true, false, at(1)));
        assert_eq!(
            (pilots.decide(Some(&few)), pilots.decide(None)),
            (PLAIN, PLAIN)
        );
        assert!(!pilots.ended("b", wrote(3000), at(2)) && pilots.is_waiting());
        assert!(pilots.ended("a", wrote(3000), at(2)) && !pilots.is_waiting());
        assert!(pilots.advance(true, false, at(2)) && !pilots.advance(true, false, at(2)));
        assert_eq!(pilots.decide(Some(&shared)), HOUR);
    }

    #[test]
    fn the_others_are_not_marked_if_the_pilot_wrote_nothing_failed_or_took_too_long() {
        for end in [wrote(0), Some(None), None] {
            let mut pilots = pilots(&rule(CachePrompt::Auto), &[20]);
            pilots.sent(&prefix(1), "a", at(0));
            assert!(pilots.ended("a", end, at(1)));
            assert_eq!(pilots.decide(Some(&prefix(1))), PLAIN, "{end:?}");
        }
        let mut pilots = pilots(&rule(CachePrompt::Auto), &[20, 20]);
        pilots.sent(&prefix(1), "a", at(0));
        pilots.sent(&prefix(2), "b", at(100));
        assert!(!pilots.advance(false, false, at(899)));
        assert!(pilots.advance(false, false, at(900)));
        assert_eq!(pilots.decide(Some(&prefix(1))), PLAIN);
        assert_eq!(pilots.decide(Some(&prefix(2))), Decision::Hold);
        assert!(pilots.advance(false, true, at(900)) && !pilots.is_waiting());
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

    #[test]
    fn a_resumed_run_relies_on_the_pilots_of_the_run_before_it() {
        let rule = rule(CachePrompt::Auto);
        let resumed = |noted: &[NotedPilot], now| {
            let mut pilots = Pilots::of_earlier_run(noted, Some(&rule));
            pilots.choose(&rule, &sharing(&[20, 20]), now);
            pilots
        };
        let mut before = pilots(&rule, &[20, 20]);
        before.sent(&prefix(1), "a", at(0));
        before.sent(&prefix(2), "b", at(0));
        before.ended("a", wrote(3000), at(100));
        let mut after = resumed(&before.noted(), at(600));
        assert_eq!(after.decide(Some(&prefix(1))), HOUR);
        assert_eq!(after.decide(Some(&prefix(2))), Decision::Hold);
        assert_eq!(after.decide(None), PLAIN, "no pilot is to be sent");
        assert!(after.ended("b", wrote(0), at(700)) && !after.is_waiting());
        assert_eq!(after.decide(Some(&prefix(2))), PLAIN);
        let late = resumed(&after.noted(), at(100 + 51 * 60));
        assert_eq!(
            late.decide(Some(&prefix(1))),
            Decision::Pilot,
            "its cache is gone"
        );
        assert!(
            Pilots::of_earlier_run(&after.noted(), None)
                .noted()
                .is_empty()
        );
    }

    #[test]
    fn a_resumed_run_relies_on_a_cache_only_while_its_provider_keeps_it() {
        let gpt = Rule {
            provider: "openai".to_owned(),
            address: "https://api.openai.com/v1".to_owned(),
            model: Some("gpt-5.6".to_owned()),
            ..rule(CachePrompt::Always)
        };
        for (rule, minutes) in [(gpt, 25), (rule(CachePrompt::Always), 50)] {
            let mut before = pilots(&rule, &[20]);
            before.sent(&prefix(1), "a", at(0));
            before.ended("a", wrote(3000), at(0));
            let resumed = |now| {
                let mut pilots = Pilots::of_earlier_run(&before.noted(), Some(&rule));
                pilots.choose(&rule, &sharing(&[20]), now);
                pilots.decide(Some(&prefix(1)))
            };
            assert_eq!(resumed(at(minutes * 60)), HOUR);
            assert_eq!(resumed(at((minutes + 1) * 60)), Decision::Pilot);
        }
    }

    #[test]
    fn a_pilot_without_a_job_is_replaced() {
        let rule = rule(CachePrompt::Auto);
        let mut before = pilots(&rule, &[20, 20]);
        before.sent(&prefix(1), "a", at(0));
        before.sent(&prefix(2), "b", at(0));
        let mut after = Pilots::of_earlier_run(&before.noted(), Some(&rule));
        assert!(after.lost(|item| item == "a"));
        after.choose(&rule, &sharing(&[20, 20]), at(9));
        assert_eq!(after.decide(Some(&prefix(1))), Decision::Pilot);
        assert_eq!(after.decide(Some(&prefix(2))), Decision::Hold);
        after.sent(&prefix(1), "c", at(9));
        assert!(
            !after.advance(false, false, at(10)),
            "it is not in its batch"
        );
        // One that is lost while the run is under way makes a portion due.
        assert!(after.advance(true, false, at(11)) && after.lost(|item| item == "b"));
        assert!(after.advance(true, false, at(12)));
        assert_eq!(after.decide(Some(&prefix(2))), Decision::Pilot);
    }
}
