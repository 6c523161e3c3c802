//! How many calls of a quota may be in flight, where refusals show that there is a limit.
//!
//! A server that answers so many calls at once refuses one more with the same status as a server
//! that counts calls per minute, and says nothing of its limit. The way to find it is that of TCP:
//! additive increase, multiplicative decrease (RFC 5681), which Netflix's `concurrency-limits`
//! applies to calls.
//!
//! - **Cut.** A refusal halves the window. Refusals of calls that had started before the cut are
//!   old news; they only tell how many of their wave were accepted. That is the threshold, where
//!   refusals begin.
//! - **Regrow.** Below the threshold each reply widens the window by a call.
//! - **Rest.** At the threshold the window stays as it is for some replies, so that it does not
//!   swing. Then one more call is tried: if it is refused, the next rest is twice as long; if not,
//!   the window goes on to widen, by one call for each windowful of replies.

/// Windowfuls of replies that a window rests at its threshold, at first and at most.
const FIRST_REST: u32 = 4;
const LONGEST_REST: u32 = 32;
/// A window that is wider than any sensible pool is none.
const OPEN: f64 = 4096.0;

#[derive(Debug, Default)]
pub(super) struct Window {
    /// Unlimited when absent.
    size: Option<f64>,
    /// As many calls were accepted when refusals began.
    threshold: Option<u32>,
    /// Calls of the wave of the last cut that have not been refused.
    accepted: u32,
    /// Replies at the threshold since it was reached.
    rested: u32,
    /// Windowfuls that the next rest lasts; 0 before the first.
    rest: u32,
    /// One call more than the threshold allows is being tried, or was, with success.
    probes: bool,
}

impl Window {
    /// Calls that may be in flight.
    pub(super) fn most(&self) -> f64 {
        let size = self.whole();
        self.threshold.map_or(size, |most| size.min(most.into()))
    }

    fn whole(&self) -> f64 {
        let whole = |size: f64| size.floor().max(1.0);
        self.size.map_or(f64::INFINITY, whole)
    }

    /// One call finds out.
    pub(super) fn narrow(&mut self) {
        self.begin_anew(1.0);
    }

    /// A call was refused while `others` were in flight.
    pub(super) fn cut(&mut self, others: u32) {
        self.rest = match self.probes {
            true => (self.rest * 2).clamp(FIRST_REST, LONGEST_REST),
            false => self.rest.max(FIRST_REST),
        };
        self.probes = false;
        self.halve(others);
        self.accepted = others;
        self.threshold = Some(others.max(1));
        self.rested = 0;
    }

    /// Another call of the wave was refused that the last cut was for.
    pub(super) fn refused_before_the_cut(&mut self) {
        self.accepted = self.accepted.saturating_sub(1);
        if self.threshold.is_some() {
            self.threshold = Some(self.accepted.max(1));
        }
    }

    /// Nothing is accepted at the moment; afterwards half of what was in flight is tried.
    pub(super) fn pause(&mut self, others: u32) {
        self.halve(others);
        self.begin_anew(self.whole());
    }

    /// Nothing is accepted, and the window of the last cut is the way back.
    pub(super) fn pause_after_cut(&mut self) {
        self.begin_anew(self.whole());
    }

    fn halve(&mut self, others: u32) {
        let half = (f64::from(others + 1) / 2.0).max(1.0);
        self.size = Some(self.size.unwrap_or(half).min(half));
    }

    fn begin_anew(&mut self, size: f64) {
        self.size = Some(size);
        self.threshold = None;
        self.probes = false;
    }

    /// A call was answered.
    pub(super) fn replied(&mut self) {
        let Some(size) = self.size else { return };
        let wider = match self.threshold.map(f64::from) {
            Some(threshold) if size < threshold => (size + 1.0).min(threshold),
            Some(threshold) => {
                self.rested += 1;
                let full = f64::from(self.rest) * threshold;
                if f64::from(self.rested) < full {
                    threshold
                } else {
                    self.threshold = None;
                    self.probes = true;
                    threshold + 1.0
                }
            }
            None if self.probes => {
                let wider = size + 1.0 / size;
                if wider.floor() > size.floor() {
                    // There is room indeed.
                    self.rest = FIRST_REST;
                }
                wider
            }
            None => size + 1.0,
        };
        self.size = (wider < OPEN).then_some(wider);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wave of so many calls of which the server takes `limit`.
    fn cut(window: &mut Window, wave: u32, limit: u32) {
        window.cut(wave - 1);
        (limit + 1..wave).for_each(|_| window.refused_before_the_cut());
    }

    #[test]
    fn a_wave_of_refusals_is_one_cut_down_to_what_was_accepted() {
        for (wave, limit, then) in [(32, 2, 2.0), (32, 20, 17.0), (8, 7, 5.0), (9, 1, 1.0)] {
            let mut window = Window::default();
            assert_eq!(window.most(), f64::INFINITY);
            cut(&mut window, wave, limit);
            window.replied();
            assert_eq!(window.most(), then, "{limit} of {wave}");
            (0..limit).for_each(|_| window.replied());
            assert_eq!(window.most(), f64::from(limit), "{limit} of {wave}");
        }
    }

    #[test]
    fn refusals_of_a_wave_count_also_after_its_first_reply() {
        let mut window = Window::default();
        cut(&mut window, 8, 6);
        (0..3).for_each(|_| window.replied());
        assert_eq!(window.most(), 6.0);
        (0..4).for_each(|_| window.refused_before_the_cut());
        assert_eq!(window.most(), 2.0);
    }

    #[test]
    fn rests_between_tries_grow_while_they_are_refused() {
        let mut window = Window::default();
        cut(&mut window, 11, 10);
        let mut rests = Vec::new();
        for _ in 0..6 {
            let mut replies = 0;
            while window.most() < 11.0 {
                window.replied();
                replies += 1;
            }
            rests.push(replies / 10);
            cut(&mut window, 11, 10);
        }
        assert_eq!(rests, [4, 8, 16, 32, 32, 32]);
    }

    #[test]
    fn a_limit_that_was_raised_is_found() {
        let mut window = Window::default();
        cut(&mut window, 3, 2);
        let replies = (0..).take_while(|_| {
            window.replied();
            window.most() < 12.0
        });
        let replies = replies.count();
        assert!(replies < 100, "{replies} replies");
        cut(&mut window, 13, 12);
        assert_eq!(window.rest, 2 * FIRST_REST);
    }

    #[test]
    fn after_a_pause_each_windowful_doubles_it() {
        let mut window = Window::default();
        window.pause(31);
        assert_eq!(window.most(), 16.0);
        (0..16).for_each(|_| window.replied());
        assert_eq!(window.most(), 32.0);
    }
}
