//! Counts calls, and decides the outcome of each: the trouble of its prompts, and the limits. One lock protects
//! the ledger, so the counts are consistent at any time; it is held briefly, and never during I/O.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;

use super::dialect::Work;
use super::limits::{Denial, Limits, Told};
use super::trouble::Form;
use super::{SimConfig, Trouble};

/// What is remembered of a prompt.
#[derive(Debug, Default)]
struct Memory {
    /// How many calls met the prompt's trouble, up to 255.
    met: u8,
    paid: bool,
}

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// The normal reply: an answer to a valid request, otherwise its error.
    Plain,
    Trouble(Trouble),
    Limited(Denial),
    /// As many calls as are taken at once are being answered.
    Busy,
}

impl Verdict {
    pub(super) fn is_refusal(self) -> bool {
        match self {
            Verdict::Plain => false,
            Verdict::Trouble(kind) => kind.is_refusal(),
            Verdict::Limited(_) | Verdict::Busy => true,
        }
    }
}

/// One received call, from its arrival to its [`settle`](Ledger::settle).
#[derive(Debug)]
pub(super) struct Call {
    pub(super) verdict: Verdict,
    /// Counts calls from 1.
    pub(super) number: u64,
    /// State of both buckets after this call.
    pub(super) limits: [Option<Told>; 2],
    /// It counts among those that are being answered.
    admitted: bool,
    inputs: u64,
    /// What it costs, in picodollars. Set when the reply has been prepared.
    pub(super) cost: u64,
}

/// The trouble of each request, and how many prompts had been billed before.
type Bought = (Vec<Option<Trouble>>, u64);

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// A valid answer is sent.
    Answered,
    /// The planned failure is sent.
    Failed,
    /// The client is no longer there.
    Gone,
}

#[derive(Debug)]
pub(super) struct Ledger {
    /// The counts, but for those of prompts.
    pub(super) counts: SimStats,
    limits: Limits,
    /// All prompts seen, by their keys.
    prompts: HashMap<u64, Memory>,
    /// Calls that are being answered.
    admitted: u64,
}

impl Ledger {
    pub(super) fn new(config: &SimConfig) -> Ledger {
        Ledger {
            counts: SimStats::default(),
            limits: Limits::new(config.rpm, config.burst, config.tpm),
            prompts: HashMap::new(),
            admitted: 0,
        }
    }

    /// Counts a call that arrived at `now` (since the start) and decides its outcome; without `work` its request was not
    /// in order.
    pub(super) fn arrive(
        &mut self,
        now: Duration,
        work: Option<&Work>,
        config: &SimConfig,
    ) -> Call {
        let stats = &mut self.counts;
        stats.calls += 1;
        stats.in_flight += 1;
        stats.max_in_flight = stats.max_in_flight.max(stats.in_flight);
        let mut call = Call {
            verdict: Verdict::Plain,
            number: stats.calls,
            limits: [None; 2],
            admitted: false,
            inputs: 0,
            cost: 0,
        };
        if let Some(work) = work {
            stats.embedding_calls += u64::from(work.form == Form::Vectors);
            stats.speech_calls += u64::from(work.form == Form::Sound);
            call.inputs = work.inputs;
            self.meet(&work.keys);
            let trouble = self.trouble(&work.keys, work.form, config);
            call.verdict = self.judge(now, work, trouble, config);
            if let Verdict::Trouble(kind) = call.verdict {
                self.meet_trouble(&work.keys, kind, config);
            }
            self.count(call.verdict, &work.keys);
            call.admitted = !call.verdict.is_refusal();
            self.admitted += u64::from(call.admitted);
        }
        if !config.hide_limits {
            call.limits = self.limits.tell(now);
        }
        call
    }

    /// Counts the call's end. This happens before its reply is written, so a client that has received its answer finds
    /// it in the statistics, and its next call never overlaps this one.
    pub(super) fn settle(&mut self, call: &Call, delivery: Delivery) {
        self.counts.in_flight -= 1;
        self.admitted -= u64::from(call.admitted);
        *self.sum(call, delivery) += call.cost;
        if delivery == Delivery::Answered {
            self.counts.answered += 1;
            self.counts.embedded += call.inputs;
        }
    }

    /// Takes back a settled `delivery`: writing it failed.
    pub(super) fn undelivered(&mut self, call: &Call, delivery: Delivery) {
        if delivery == Delivery::Answered {
            self.counts.answered -= 1;
            self.counts.embedded -= call.inputs;
        }
        if delivery != Delivery::Gone {
            *self.sum(call, delivery) -= call.cost;
            *self.sum(call, Delivery::Gone) += call.cost;
        }
    }

    /// Records processed requests of a batch, by their prompts. Returns the trouble of each.
    pub(super) fn buy(&mut self, asked: &[(u64, Form)], config: &SimConfig) -> Bought {
        let before = self.counts.paid_twice;
        let bought = asked
            .iter()
            .map(|(key, form)| self.buy_one(*key, *form, config));
        let met = bought.collect();
        (met, self.counts.paid_twice - before)
    }

    pub(super) fn stats(&self) -> SimStats {
        SimStats {
            prompts: self.prompts.len() as u64,
            ..self.counts.clone()
        }
    }

    /// The outcome of a valid call with this trouble, if any.
    fn judge(
        &mut self,
        now: Duration,
        work: &Work,
        trouble: Option<Trouble>,
        config: &SimConfig,
    ) -> Verdict {
        let most = config.max_parallel;
        match trouble {
            Some(kind) if kind.is_refusal() => Verdict::Trouble(kind),
            _ if most.is_some_and(|most| self.admitted >= most) => Verdict::Busy,
            trouble => match (self.limits.take(now, work.tokens), trouble) {
                (Err(denial), _) => Verdict::Limited(denial),
                (Ok(()), Some(kind)) => Verdict::Trouble(kind),
                (Ok(()), None) => Verdict::Plain,
            },
        }
    }

    /// Remembers these prompts.
    fn meet(&mut self, keys: &[u64]) {
        for key in keys {
            self.prompts.entry(*key).or_default();
        }
    }

    /// The trouble of a call with these prompts. An API checks a call as a whole before it processes any input, so
    /// rejections come first, then invalid inputs.
    fn trouble(&self, keys: &[u64], form: Form, config: &SimConfig) -> Option<Trouble> {
        let pending = keys.iter().filter_map(|key| {
            let kind = config.plan_key(*key).filter(|kind| kind.applies_to(form))?;
            let met = self.prompts.get(key).map_or(0, |memory| memory.met);
            config.script.continues(kind, met.into()).then_some(kind)
        });
        // Of equal ranks the first is taken.
        pending.min_by_key(|kind| match kind {
            kind if kind.is_refusal() => 0,
            Trouble::BadRequest => 1,
            _ => 2,
        })
    }

    /// Every prompt of the call that was to meet this kind has met it.
    fn meet_trouble(&mut self, keys: &[u64], kind: Trouble, config: &SimConfig) {
        let met = self.counts.by_trouble.entry(kind.name().to_owned());
        *met.or_default() += 1;
        for key in keys {
            if config.plan_key(*key) == Some(kind) {
                let memory = self.prompts.entry(*key).or_default();
                memory.met = memory.met.saturating_add(1);
            }
        }
    }

    fn buy_one(&mut self, key: u64, form: Form, config: &SimConfig) -> Option<Trouble> {
        self.meet(&[key]);
        let kind = self.trouble(&[key], form, config);
        let kind = kind.filter(|kind| kind.is_in_batches());
        if let Some(kind) = kind {
            self.meet_trouble(&[key], kind, config);
        }
        if kind.is_none_or(Trouble::is_paid) {
            self.pay(&[key]);
        }
        kind
    }

    fn pay(&mut self, keys: &[u64]) {
        self.counts.paid += 1;
        for key in keys {
            let memory = self.prompts.entry(*key).or_default();
            self.counts.paid_twice += u64::from(memory.paid);
            memory.paid = true;
        }
    }

    fn count(&mut self, verdict: Verdict, keys: &[u64]) {
        let (accepted, paid, refused) = match verdict {
            Verdict::Plain => (true, true, false),
            Verdict::Limited(_) | Verdict::Busy => (false, false, true),
            Verdict::Trouble(kind) => (!kind.is_refusal(), kind.is_paid(), kind.is_429()),
        };
        let stats = &mut self.counts;
        stats.accepted += u64::from(accepted);
        stats.refused += u64::from(refused);
        if paid {
            self.pay(keys);
        }
    }

    /// The sum to which the cost of a call belongs.
    fn sum(&mut self, call: &Call, delivery: Delivery) -> &mut u64 {
        let is_seen = match call.verdict {
            // The reply is whole, and reports its usage.
            Verdict::Trouble(Trouble::Empty) => true,
            Verdict::Trouble(kind) => !kind.is_uncertain(),
            _ => true,
        };
        if is_seen && delivery != Delivery::Gone {
            &mut self.counts.billed_picos
        } else {
            &mut self.counts.billed_unseen_picos
        }
    }
}

/// Exact counts since the simulator's start, taken at one moment.
///
/// A *call* is one `POST` to an endpoint for answers, embeddings or speech whose body arrived completely; other
/// endpoints and requests that are invalid HTTP are not counted. Prompts are distinguished by the text of their last
/// user message; each distinct input of an embedding call counts as a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SimStats {
    /// Connections accepted.
    pub connections: u64,
    /// Calls received.
    pub calls: u64,
    /// Accepted calls: valid, and not rejected because of a key, a model, a limit or an exhausted account, whether real
    /// or by a trouble.
    pub accepted: u64,
    /// Accepted calls for which a real provider would charge: every 200, also a broken, cut, empty or
    /// filtered one, every drop and every stall. Counted on arrival.
    pub paid: u64,
    /// The price of all paid replies that reached the client whole, and of all requests of batches that were worked on,
    /// in picodollars (10⁻¹² US dollars), by [`SimConfig::price`](super::SimConfig::price).
    pub billed_picos: u64,
    /// The price of the paid replies that did not reach the client whole: drop, stall, truncated, broken_json, and
    /// replies that could not be delivered.
    pub billed_unseen_picos: u64,
    /// Paid calls for a prompt that had been paid before.
    pub paid_twice: u64,
    /// Calls with status 429, because of a limit or a trouble; also those with an exhausted account, whatever status
    /// the vendor uses for that.
    pub refused: u64,
    /// Requests that a correct client does not send: fields, values, headers or paths that the API rejects, and
    /// unreadable heads. Wrong keys, unknown models and troubles are not included.
    pub malformed: u64,
    /// Calls for embeddings, out of all calls, that were in order and for a model that exists.
    pub embedding_calls: u64,
    /// Calls for speech, out of all calls, that were in order and for a model that exists.
    pub speech_calls: u64,
    /// Inputs whose vectors were sent, counted each time.
    pub embedded: u64,
    /// Distinct prompts seen.
    pub prompts: u64,
    /// Good 200 replies written out in full.
    pub answered: u64,
    /// Received calls that were neither answered nor abandoned yet.
    pub in_flight: u64,
    /// The most calls that were in flight at once.
    pub max_in_flight: u64,
    /// Calls that met each kind of trouble, by its name; kinds that did not occur are absent.
    pub by_trouble: BTreeMap<String, u64>,
}
