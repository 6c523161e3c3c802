//! How many calls of a quota may be in flight: the one place that decides it, by what refusals and
//! answers show.
//!
//! A server that answers so many calls at once refuses one more with the same status as a server
//! that counts calls per minute, and says nothing of its limit; another takes them all and answers
//! each the later the more there are. A window starts **open**, where its user named a number of calls
//! and only refusals can show that there is less; or it is **tuned**: it starts small and grows as
//! long as that helps, up to a ceiling.
//!
//! The way to find such limits is that of TCP: slow start, additive increase, multiplicative decrease
//! (RFC 5681), cut less the second time and return quickly to just below the last cut (CUBIC, RFC 9438).
//! Netflix's `concurrency-limits` applies that to calls; as its Gradient2 does, a tuned window compares
//! what calls cost at two sizes, here by a trial that is taken back when it brought nothing.
//!
//! - **Climb.** Half as many again at first, one more with each answer. A size is kept when it was really used, nothing was refused and,
//!   of a tuned window, a good part of what it could bring more was brought: work done per time, which
//!   is size by cost ([`SlotCost`]). Else the window goes back to what had proven useful, or to where
//!   the gain ended.
//! - **Cut.** A refusal of what was only being tried takes that back. One of a size that had been fine
//!   takes a seventh of the window, the first of all half of it. Refusals of calls that had started
//!   before the cut are old news; they only tell how many of their wave were accepted.
//! - **Return.** Each answer widens the window by a call, up to just below where refusals began; unless
//!   it was cut there a moment ago, then it stays where it is.
//! - **Rest.** The window stays for some windowfuls of answers, so that it does not swing: twice as many
//!   after each trial in vain. Then the next trial starts small, and grows with each success.
//! - **Shrink.** When calls come to cost more without anybody's doing, or a larger window brought nothing
//!   the last time, a smaller one is tried, and kept when it brings as much.

use std::time::Duration;

use super::slot_cost::{Cost, SlotCost};

/// Windowfuls of answers that a window rests, at first and at most.
const FIRST_REST: u32 = 4;
const LONGEST_REST: u32 = 32;
/// A large window need not rest for more answers than this to have few of them refused.
const RESTED: u32 = 500;
/// A cut within so many windowfuls of the last one means that the return went too far.
const SOON: u32 = 4;
/// What a cut leaves of a size that had been fine, and what one that follows soon.
const KEPT: f64 = 0.85;
const KEPT_SOON: f64 = 0.7;
/// The part of what a larger window could bring that it has to bring.
const WORTHWHILE: f64 = 0.4;
/// Sizes that differ by less cannot be told apart by what they bring.
const TELLING: f64 = 1.1;
/// A step that few answers tell apart.
const LARGE: f64 = 1.4;
/// The first steps, and the largest of later ones.
const FASTEST: f64 = 1.5;
/// The same where refusals are what limits.
const TELLING_IF_CUT: f64 = LARGE;
/// Changes of cost that are more than noise: upwards, where a trial may cost something, and downwards.
const ROSE: f64 = 1.25;
const FELL: f64 = 0.87;
/// The step of a trial that costs nothing, since nothing was ever refused.
const EIGHTH: f64 = 1.125;
/// Answers that tell costs apart that differ by a tenth.
const ENOUGH: u32 = 100;
/// Those that tell apart what differs by half.
const ENOUGH_FOR_DOUBLE: u32 = 10;
/// A window that is wider than any sensible pool is none.
const OPEN: u32 = 4096;

/// A size with what work cost there.
#[derive(Debug, Clone, Copy)]
struct Level {
    size: u32,
    cost: Cost,
}

impl Level {
    /// How many times as much was done per time as at another level.
    fn gain(self, over: Level) -> f64 {
        f64::from(self.size) / f64::from(over.size) / self.cost.times(over.cost)
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// On the way back to the threshold, by a call with each answer.
    Return { threshold: u32 },
    /// This size is being tried; `from` is what had proven useful before, if anything had.
    Climb { from: Option<Level>, factor: f64 },
    /// It is fine as it is, for so many answers more.
    Rest { settled: Option<Cost>, left: u32 },
    /// This size is tried for being as good as that larger one.
    Shrink { from: Level },
}

/// When a call began, as far as its window is concerned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Epoch(u32);

impl Epoch {
    pub(super) const NONE: Epoch = Epoch(0);
}

/// A call that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub began: Epoch,
    pub took: Duration,
    /// Of its output, if told.
    pub tokens: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Window {
    /// Unlimited when absent.
    size: Option<u32>,
    /// What it grows to by a call with each answer.
    target: u32,
    /// The largest size.
    most: u32,
    /// It finds its size by itself: growth has to pay.
    tuned: bool,
    phase: Phase,
    /// Raised when the size changes: what began before says nothing of the new one.
    epoch: u32,
    measured: SlotCost,
    /// The most calls in flight at once since the measurement began.
    peak: u32,
    /// Calls of the wave of the last cut that have not been refused.
    accepted: Option<u32>,
    /// Answers since the last cut.
    since_cut: u32,
    /// Windowfuls that the next rest lasts.
    rest: u32,
    /// The last trial ended with a refusal.
    was_cut: bool,
    /// The last larger window that was tried brought nothing.
    brought_nothing: bool,
    /// Answers or refusals have shown something of its size.
    proven: bool,
}

impl Default for Window {
    /// Open.
    fn default() -> Self {
        Self {
            size: None,
            target: 0,
            most: OPEN,
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
            proven: false,
        }
    }
}

impl Window {
    /// A window that finds its size from `start` on, and never passes `most`.
    pub(super) fn tuned(start: u32, most: u32) -> Self {
        let most = most.max(1);
        Self {
            size: Some(start.clamp(1, most)),
            target: start.clamp(1, most),
            most,
            tuned: true,
            phase: Phase::Climb {
                from: None,
                factor: FASTEST,
            },
            ..Self::default()
        }
    }

    /// A tuned one whose size was found a short while ago.
    pub(super) fn resumed(size: u32, most: u32) -> Self {
        let mut window = Self::tuned(size, most);
        window.begin_rest(None);
        window
    }

    /// Calls that may be in flight.
    pub(super) fn most(&self) -> f64 {
        let size = self.size.map_or(f64::INFINITY, f64::from);
        match self.phase {
            Phase::Return { threshold } => size.min(threshold.into()),
            _ => size,
        }
    }

    /// The size that has proven useful, if any has so far.
    pub(super) fn found(&self) -> Option<u32> {
        self.useful().filter(|_| self.proven && self.tuned)
    }

    fn useful(&self) -> Option<u32> {
        match self.phase {
            Phase::Climb { from, .. } => from.map(|from| from.size),
            Phase::Return { threshold } => Some(threshold),
            Phase::Rest { .. } => self.size,
            Phase::Shrink { from } => Some(from.size),
        }
    }

    /// The most that it may ever be.
    pub(super) fn ceiling(&self) -> u32 {
        self.most
    }

    /// Calls at once that have proven to be accepted; 1 where nothing is known.
    pub(super) fn best(&self) -> u32 {
        self.useful().unwrap_or(1).clamp(1, self.most)
    }

    /// So many were accepted at once; more were not, or are not needed.
    pub(super) fn found_at(&mut self, calls: u32) {
        self.was_cut = true;
        self.proven = true;
        self.rest = (self.rest * 2).min(LONGEST_REST);
        self.settle_at(calls, None);
    }

    /// A call began, with which so many are in flight.
    pub(super) fn began(&mut self, in_flight: u32) -> Epoch {
        self.peak = self.peak.max(in_flight);
        Epoch(self.epoch)
    }

    /// One call finds out.
    pub(super) fn narrow(&mut self) {
        let before = self.most().min(self.most.into()) as u32;
        let threshold = self.useful().map_or(before, |found| found.max(before));
        self.accepted = None;
        self.resize(1, Phase::Return { threshold });
    }

    /// A call was refused while `others` were in flight. True of a window that was cut a short while ago: then it may be no number of calls at once that limits.
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
                        // Something is not as it was: that may pass soon.
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
        self.proven = true;
        self.resize(kept, Phase::Return { threshold });
        soon
    }

    /// The refusals of this wave have nothing to do with the number of calls at once.
    pub(super) fn forget_wave(&mut self) {
        self.accepted = None;
    }

    /// Another call of the wave was refused that the last cut was for.
    pub(super) fn refused_before_the_cut(&mut self) {
        let Some(accepted) = &mut self.accepted else {
            return;
        };
        *accepted = accepted.saturating_sub(1);
        let most = (*accepted).max(1);
        match &mut self.phase {
            Phase::Return { threshold } => *threshold = (*threshold).min(most),
            // It was back at what turns out to be too much.
            _ if self.size.is_some_and(|size| size > most) => self.settle_at(most, None),
            _ => {}
        }
    }

    /// Nothing is accepted at the moment; afterwards half of what was in flight is tried.
    pub(super) fn pause(&mut self, others: u32) {
        let soon = self.since_cut < SOON.saturating_mul(others + 1);
        let size = half(others + 1).min(self.size.unwrap_or(u32::MAX));
        let threshold = match self.size.is_some() && soon {
            _ if !self.tuned => self.most,
            true => size,
            false => others + 1,
        };
        self.accepted = None;
        self.since_cut = 0;
        self.resize(size, Phase::Return { threshold });
    }

    /// Nothing is accepted, and the window of the last cut is the way back.
    pub(super) fn pause_after_cut(&mut self) {
        let size = self.size.unwrap_or(1);
        let threshold = size.saturating_mul(2).min(self.most).max(1);
        self.accepted = None;
        self.resize(size, Phase::Return { threshold });
    }

    /// A call was answered.
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
            // One more for each answer: a wave of calls would be a wave of refusals.
            let (target, phase) = (self.target, self.phase);
            if size + 1 < target {
                self.size = Some(size + 1)
            } else {
                self.resize(target, phase)
            }
            return;
        }
        if answer.began != Epoch(self.epoch) {
            return;
        }
        self.measured.add(answer.took, answer.tokens);
        if self.measured.calls() < self.enough(size) {
            return;
        }
        let measured = std::mem::take(&mut self.measured);
        let peak = std::mem::take(&mut self.peak);
        // Who does not use what there is learns nothing about more.
        if peak >= size - size / 4 {
            let cost = measured.cost();
            self.judge(Level { size, cost }, measured.calls());
        }
    }

    /// Answers that are needed to judge the present size.
    fn enough(&self, size: u32) -> u32 {
        let trial = |from: Level| f64::from(size) / f64::from(from.size);
        match self.phase {
            _ if !self.tuned => size,
            Phase::Climb { from, .. } => match from.map(trial) {
                None => size.max(ENOUGH_FOR_DOUBLE),
                Some(ratio) if ratio >= LARGE => size.max(ENOUGH_FOR_DOUBLE),
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
        self.proven = true;
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
                // The next trial is of more again, and soon.
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

    /// Tries more than `size`.
    fn climb(&mut self, from: Level, size: u32, factor: f64) {
        let more = ((f64::from(size) * factor).round() as u32).max(size + 1);
        if more > self.most && !self.tuned {
            // There is room for all.
            self.size = None;
            return;
        }
        let more = more.min(self.most);
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

    fn settle_at(&mut self, size: u32, cost: Option<Cost>) {
        self.size = Some(size.clamp(1, self.most));
        self.begin_rest(cost);
    }

    fn begin_rest(&mut self, settled: Option<Cost>) {
        let size = self.size.unwrap_or(1);
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

/// Where the gain of a large step ended; of a small one, where it began.
fn useful(from: Level, ratio: f64, gain: f64) -> u32 {
    if ratio < LARGE || gain < 1.0 + (TELLING - 1.0) / 2.0 {
        return from.size;
    }
    // With a little more, so that nothing stands idle.
    (f64::from(from.size) * (gain * TELLING).min(ratio)).ceil() as u32
}

fn half(calls: u32) -> u32 {
    (calls / 2).max(1)
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
