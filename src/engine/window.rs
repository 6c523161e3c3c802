//! The number of calls in flight of a quota, decided from rejections and answers.
//!
//! A server that accepts a number of concurrent calls rejects one more with the same status as a server that limits
//! calls per minute, and does not report its limit. Another server accepts all calls and answers each later, the more
//! there are. A window starts **open** if the user set the concurrency and only rejections can show that less is
//! possible. Or it is **tuned**: it starts small and grows while that helps, up to a maximum.
//!
//! The method is that of TCP: slow start, additive increase, multiplicative decrease (RFC 5681), a smaller cut the
//! second time and a fast return to just below the last cut (CUBIC, RFC 9438). Netflix's `concurrency-limits` applies
//! it to calls. Like its Gradient2, a tuned window compares the cost of calls at two sizes, here by a trial that is
//! undone if it gained nothing.
//!
//! - **Climb.** The window doubles at first, then grows by half, by one call with each answer. A size is kept if it was really used,
//!   nothing was rejected and, for a tuned window, it brought a good part of the possible gain: work per time, which is
//!   size divided by cost ([`SlotCost`]). Otherwise the window returns to the useful size, or to where the gain ended.
//! - **Cut.** A rejection during a trial undoes the trial. At a size that was accepted before, the first rejection halves
//!   the window, later ones reduce it by a seventh. Rejections of calls that started before the cut are outdated; they
//!   only show how many calls of their wave were accepted.
//! - **Return.** Each answer widens the window by one call, up to just below the last cut. If it was cut there a moment
//!   ago, it stays.
//! - **Rest.** The window keeps its size for a multiple of its size in answers, twice as long after each trial without
//!   gain, so that it does not oscillate. The next trial then starts small, and grows with each success.
//! - **Shrink.** If the cost of calls rises for no known reason, or a larger window gained nothing the last time, a
//!   smaller one is tried, and kept if it is as good.

use std::time::Duration;

/// Duration of a rest, at first and at most, as a multiple of the window's size in answers.
const FIRST_REST: u32 = 4;
const LONGEST_REST: u32 = 32;
/// A large window rests for at most this many answers; that keeps rejections rare.
const RESTED: u32 = 500;
/// A cut within this multiple of the window's size in answers means that the return went too far.
const SOON: u32 = 4;
/// Factor of a cut of an accepted size, and of a cut that follows soon.
const KEPT: f64 = 0.85;
const KEPT_SOON: f64 = 0.7;
/// The part of the possible gain that a larger window must bring.
const WORTHWHILE: f64 = 0.4;
/// Sizes that differ by a smaller factor cannot be distinguished by their gain.
const TELLING: f64 = 1.1;
/// Factor of a step that few answers suffice to judge.
const LARGE: f64 = 1.4;
/// Factor of the first steps, and maximum of later ones.
const FASTEST: f64 = 1.5;
/// A window below this size doubles until a call is rejected: a server on this machine starts with one call at a time.
const FEW: u32 = 5;
const DOUBLE: f64 = 2.0;
/// The same if rejections are what limits the window.
const TELLING_IF_CUT: f64 = LARGE;
/// Changes of cost that exceed noise: upwards, where a trial may cost something, and downwards.
const ROSE: f64 = 1.25;
const FELL: f64 = 0.87;
/// Factor of a trial that costs nothing, because no call was ever rejected.
const EIGHTH: f64 = 1.125;
/// Answers that distinguish costs that differ by a tenth.
const ENOUGH: u32 = 100;
/// Answers that distinguish costs that differ by half.
const ENOUGH_FOR_HALF: u32 = 10;
/// Answers that distinguish a cost from its double.
const ENOUGH_FOR_DOUBLE: u32 = 5;
/// A window of at least this size limits nothing.
const OPEN: u32 = 4096;

/// Calls that were answered since the measurement started, and the cost of a unit of work in slot time. It shows whether more
/// calls in flight help.
///
/// Work is counted in output tokens if replies report them, because replies differ in length, and otherwise in calls.
/// By Little's law, the throughput of a full window is its size divided by this cost. If the cost grows as fast as
/// the window, nothing was gained.
#[derive(Debug, Default, Clone, Copy)]
struct SlotCost {
    by_tokens: Sum,
    by_calls: Sum,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    calls: u32,
    seconds: f64,
    tokens: f64,
}

/// Seconds per token, or per call if no reply reported tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cost {
    seconds: f64,
    by_tokens: bool,
}

impl SlotCost {
    fn add(&mut self, took: Duration, output_tokens: Option<u64>) {
        let sum = match output_tokens {
            Some(_) => &mut self.by_tokens,
            None => &mut self.by_calls,
        };
        sum.calls += 1;
        sum.seconds += took.as_secs_f64();
        // An answer without tokens, such as a vector, is work too.
        sum.tokens += output_tokens.unwrap_or(1).max(1) as f64;
    }

    fn calls(&self) -> u32 {
        self.by_tokens.calls + self.by_calls.calls
    }

    fn cost(&self) -> Cost {
        let by_tokens = self.by_tokens.calls >= self.by_calls.calls;
        let sum = if by_tokens {
            self.by_tokens
        } else {
            self.by_calls
        };
        Cost {
            // A clock that does not advance must not make work free.
            seconds: (sum.seconds / sum.tokens.max(1.0)).max(1e-9),
            by_tokens,
        }
    }
}

impl Cost {
    /// The ratio of two costs; 1 if they cannot be compared.
    fn times(self, other: Cost) -> f64 {
        if self.by_tokens == other.by_tokens {
            self.seconds / other.seconds
        } else {
            1.0
        }
    }
}

/// A size and the cost of work at that size.
#[derive(Debug, Clone, Copy)]
struct Level {
    size: u32,
    cost: Cost,
}

impl Level {
    /// The ratio of work per time to another level.
    fn gain(self, over: Level) -> f64 {
        f64::from(self.size) / f64::from(over.size) / self.cost.times(over.cost)
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Growing back to the threshold, by one call with each answer.
    Return { threshold: u32 },
    /// A trial of this size; `from` is the last useful size.
    Climb { from: Option<Level>, factor: f64 },
    /// The size stays for `left` more answers.
    Rest { settled: Option<Cost>, left: u32 },
    /// A trial whether this size is as good as the larger one.
    Shrink { from: Level },
}

/// An answered call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    /// The epoch of the window when it started.
    pub epoch: u32,
    pub took: Duration,
    /// Output tokens, if reported.
    pub tokens: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Window {
    /// `None` for unlimited.
    size: Option<u32>,
    /// The size that it grows to, by one call with each answer.
    target: u32,
    /// Maximum size.
    pub ceiling: u32,
    /// The window finds its size itself: growth must bring a gain.
    tuned: bool,
    phase: Phase,
    /// Raised when the size changes: calls that started before show nothing about the new one.
    epoch: u32,
    measured: SlotCost,
    /// Highest number of calls in flight since the measurement started.
    peak: u32,
    /// Calls of the wave of the last cut that were not rejected; `None` if that had another cause than the concurrency.
    pub accepted: Option<u32>,
    /// Answers since the last cut.
    since_cut: u32,
    /// Duration of the next rest, as a multiple of the size in answers.
    rest: u32,
    /// The last trial ended with a rejection.
    was_cut: bool,
    /// The last trial of a larger window brought no gain.
    brought_nothing: bool,
}

impl Default for Window {
    /// Open.
    fn default() -> Self {
        Self {
            size: None,
            target: 0,
            ceiling: OPEN,
            tuned: false,
            phase: Phase::Rest {
                settled: None,
                left: 0,
            },
            epoch: 0,
            measured: SlotCost::default(),
            peak: 0,
            accepted: None,
            since_cut: u32::MAX,
            rest: FIRST_REST,
            was_cut: false,
            brought_nothing: false,
        }
    }
}

impl Window {
    /// A window that finds its size from `start` on, up to `most`.
    pub(super) fn tuned(start: u32, most: u32) -> Self {
        let most = most.max(1);
        Self {
            size: Some(start.clamp(1, most)),
            target: start.clamp(1, most),
            ceiling: most,
            tuned: true,
            phase: Phase::Climb {
                from: None,
                factor: FASTEST,
            },
            ..Self::default()
        }
    }

    /// Maximum number of calls in flight.
    pub(super) fn most(&self) -> f64 {
        let size = self.size.map_or(f64::INFINITY, f64::from);
        match self.phase {
            Phase::Return { threshold } => size.min(threshold.into()),
            _ => size,
        }
    }

    fn useful(&self) -> Option<u32> {
        match self.phase {
            Phase::Climb { from, .. } => from.map(|from| from.size),
            Phase::Return { threshold } => Some(threshold),
            Phase::Rest { .. } => self.size,
            Phase::Shrink { from } => Some(from.size),
        }
    }

    /// Calls in flight that were accepted; 1 if nothing is known.
    pub(super) fn best(&self) -> u32 {
        self.useful().unwrap_or(1).clamp(1, self.ceiling)
    }

    /// This many calls in flight were accepted; more were not, or are not needed.
    pub(super) fn found_at(&mut self, calls: u32) {
        self.was_cut = true;
        self.rest = (self.rest * 2).min(LONGEST_REST);
        self.settle_at(calls, None);
    }

    /// Records a started call; `in_flight` includes it. Returns the epoch of the window.
    pub(super) fn began(&mut self, in_flight: u32) -> u32 {
        self.peak = self.peak.max(in_flight);
        self.epoch
    }

    /// Allows one call, as a probe.
    pub(super) fn narrow(&mut self) {
        let before = self.most().min(self.ceiling.into()) as u32;
        let threshold = self.useful().map_or(before, |found| found.max(before));
        self.accepted = None;
        self.resize(1, Phase::Return { threshold });
    }

    /// A call was rejected while `others` were in flight. Returns true if a tuned window was cut again soon:
    /// concurrency is probably not the limit.
    pub(super) fn cut(&mut self, others: u32) -> bool {
        let level = others + 1;
        let soon = self.since_cut < SOON.saturating_mul(level);
        let (kept, threshold) = match (self.size, self.phase) {
            (
                Some(_),
                Phase::Climb {
                    from: Some(from), ..
                },
            ) if level > from.size => {
                self.rest = (self.rest * 2).min(LONGEST_REST);
                (from.size.max(half(level)), others)
            }
            (None, _) | (_, Phase::Climb { from: None, .. }) => (half(level), others),
            _ => {
                let kept = |part: f64| ((f64::from(level) * part) as u32).min(others);
                match soon {
                    true if self.tuned => (kept(KEPT_SOON), kept(KEPT_SOON)),
                    true => (kept(KEPT_SOON), others),
                    false => {
                        // Conditions have changed, perhaps only for a short time.
                        self.rest = FIRST_REST;
                        (kept(KEPT), others)
                    }
                }
            }
        };
        let kept = kept.min(self.size.unwrap_or(kept)).max(1);
        let threshold = threshold.max(1);
        self.accepted = Some(others);
        self.since_cut = 0;
        self.brought_nothing = false;
        self.was_cut = true;
        self.resize(kept, Phase::Return { threshold });
        soon
    }

    /// Another call of the wave that caused the last cut was rejected.
    pub(super) fn refused_before_the_cut(&mut self) {
        let Some(accepted) = &mut self.accepted else {
            return;
        };
        *accepted = accepted.saturating_sub(1);
        let most = (*accepted).max(1);
        match &mut self.phase {
            Phase::Return { threshold } => *threshold = (*threshold).min(most),
            // The window had grown back to a size that is too large.
            _ if self.size.is_some_and(|size| size > most) => self.settle_at(most, None),
            _ => {}
        }
    }

    /// No call is accepted at the moment; afterwards half of the calls in flight are tried.
    pub(super) fn pause(&mut self, others: u32) {
        let soon = self.since_cut < SOON.saturating_mul(others + 1);
        let size = half(others + 1).min(self.size.unwrap_or(u32::MAX));
        let threshold = match self.size.is_some() && soon {
            _ if !self.tuned => self.ceiling,
            true => size,
            false => others + 1,
        };
        self.accepted = None;
        self.since_cut = 0;
        self.resize(size, Phase::Return { threshold });
    }

    /// No call is accepted; afterwards the window of the last cut applies.
    pub(super) fn pause_after_cut(&mut self) {
        let size = self.size.unwrap_or(1);
        let threshold = size.saturating_mul(2).min(self.ceiling).max(1);
        self.accepted = None;
        self.resize(size, Phase::Return { threshold });
    }

    /// Records an answered call.
    pub(super) fn replied(&mut self, answer: Answer) {
        self.since_cut = self.since_cut.saturating_add(1);
        let Some(size) = self.size else { return };
        if let Phase::Return { threshold } = self.phase {
            if size + 1 < threshold {
                self.size = Some(size + 1)
            } else {
                self.settle_at(threshold, None)
            }
            return;
        }
        if size < self.target {
            // One more call per answer: a burst of calls would be a burst of rejections.
            let (target, phase) = (self.target, self.phase);
            if size + 1 < target {
                self.size = Some(size + 1)
            } else {
                self.resize(target, phase)
            }
            return;
        }
        if answer.epoch != self.epoch {
            return;
        }
        self.measured.add(answer.took, answer.tokens);
        if self.measured.calls() < self.enough(size) {
            return;
        }
        let measured = std::mem::take(&mut self.measured);
        let peak = std::mem::take(&mut self.peak);
        // A window that is not used shows nothing about a larger one.
        if peak >= size - size / 4 {
            let cost = measured.cost();
            self.judge(Level { size, cost }, measured.calls());
        }
    }

    /// Number of answers needed to judge the present size.
    fn enough(&self, size: u32) -> u32 {
        let trial = |from: Level| f64::from(size) / f64::from(from.size);
        match self.phase {
            _ if !self.tuned => size,
            Phase::Climb { from, .. } => match from.map(trial) {
                None if size < FEW => size.max(ENOUGH_FOR_DOUBLE),
                Some(ratio) if ratio >= DOUBLE => size.max(ENOUGH_FOR_DOUBLE),
                None => size.max(ENOUGH_FOR_HALF),
                Some(ratio) if ratio >= LARGE => size.max(ENOUGH_FOR_HALF),
                Some(ratio) if ratio < self.telling() => size,
                Some(_) => (2 * size).max(ENOUGH),
            },
            Phase::Shrink { .. } => (2 * size).max(ENOUGH),
            _ => (4 * size).max(ENOUGH.min(10 * size)),
        }
    }

    fn telling(&self) -> f64 {
        if self.was_cut {
            TELLING_IF_CUT
        } else {
            TELLING
        }
    }

    fn judge(&mut self, now: Level, answers: u32) {
        match self.phase {
            Phase::Return { .. } => {}
            Phase::Climb { from: None, factor } => self.climb(now, now.size, factor),
            Phase::Climb {
                from: Some(from),
                factor,
            } => {
                let ratio = f64::from(now.size) / f64::from(from.size);
                let gain = now.gain(from);
                let faster = (factor * factor).min(FASTEST);
                if self.tuned && ratio < self.telling() {
                    self.climb(from, now.size, faster);
                } else if !self.tuned || gain >= 1.0 + WORTHWHILE * (ratio - 1.0) {
                    self.rest = FIRST_REST;
                    self.climb(now, now.size, faster);
                } else {
                    self.rest = (self.rest * 2).min(LONGEST_REST);
                    self.brought_nothing = true;
                    self.was_cut = false;
                    self.settle_at(useful(from, ratio, gain), Some(from.cost));
                }
            }
            Phase::Rest { settled, left } => {
                let change = settled.map_or(1.0, |settled| now.cost.times(settled));
                if self.tuned && change > ROSE {
                    let size = (f64::from(now.size) / change * TELLING) as u32;
                    self.shrink(now, size);
                } else if change < FELL {
                    self.climb(now, now.size, ROSE);
                } else if left > answers {
                    self.phase = Phase::Rest {
                        settled: settled.or(Some(now.cost)),
                        left: left - answers,
                    };
                } else if self.tuned && std::mem::take(&mut self.brought_nothing) {
                    self.shrink(now, now.size - now.size / 8);
                } else if self.tuned && !self.was_cut {
                    self.climb(now, now.size, EIGHTH);
                } else {
                    self.climb(now, now.size, 1.0 + 1.0 / f64::from(now.size));
                }
            }
            Phase::Shrink { from } => {
                let ratio = f64::from(now.size) / f64::from(from.size);
                // The next trial is a larger size again, and soon.
                let rest = std::mem::replace(&mut self.rest, FIRST_REST);
                if now.gain(from) >= 1.0 - WORTHWHILE * (1.0 - ratio) {
                    self.settle_at(now.size, Some(now.cost))
                } else {
                    self.settle_at(from.size, Some(from.cost))
                }
                self.rest = rest;
            }
        }
    }

    /// Tries a larger size than `size`.
    fn climb(&mut self, from: Level, size: u32, factor: f64) {
        let factor = if size < FEW && factor >= FASTEST && !self.was_cut {
            DOUBLE
        } else {
            factor
        };
        let more = ((f64::from(size) * factor).round() as u32).max(size + 1);
        if more > self.ceiling && !self.tuned {
            // All calls fit.
            self.size = None;
            return;
        }
        let more = more.min(self.ceiling);
        if more == size {
            return self.settle_at(size, (size == from.size).then_some(from.cost));
        }
        let from = Some(from);
        self.resize(size, Phase::Climb { from, factor });
        self.target = more;
    }

    fn shrink(&mut self, from: Level, size: u32) {
        let less = size.clamp(1, from.size.saturating_sub(1).max(1));
        if less == from.size {
            return self.settle_at(from.size, Some(from.cost));
        }
        self.resize(less, Phase::Shrink { from });
    }

    fn settle_at(&mut self, size: u32, settled: Option<Cost>) {
        let size = size.clamp(1, self.ceiling);
        let most = RESTED.max(FIRST_REST.saturating_mul(size));
        let left = self.rest.saturating_mul(size).min(most);
        self.resize(size, Phase::Rest { settled, left });
    }

    fn resize(&mut self, size: u32, phase: Phase) {
        self.size = Some(size);
        self.phase = phase;
        self.epoch += 1;
        self.measured = SlotCost::default();
        self.peak = 0;
        self.target = size;
    }
}

/// Where the gain of a large step ended; for a small step, its start.
fn useful(from: Level, ratio: f64, gain: f64) -> u32 {
    if ratio < LARGE || gain < 1.0 + (TELLING - 1.0) / 2.0 {
        return from.size;
    }
    // With a small margin, so that no slot is idle.
    (f64::from(from.size) * (gain * TELLING).min(ratio)).ceil() as u32
}

fn half(calls: u32) -> u32 {
    (calls / 2).max(1)
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
