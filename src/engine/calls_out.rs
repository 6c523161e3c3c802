//! The number of calls in flight to each step, without those that probe it.

use super::class::StepId;

#[derive(Debug, Default)]
pub(super) struct CallsOut(Vec<(StepId, usize)>);

impl CallsOut {
    pub(super) fn begin(&mut self, step: StepId) {
        match self.0.iter_mut().find(|(known, _)| *known == step) {
            Some((_, out)) => *out += 1,
            None => self.0.push((step, 1)),
        }
    }

    pub(super) fn end(&mut self, step: StepId) {
        if let Some((_, out)) = self.0.iter_mut().find(|(known, _)| *known == step) {
            *out -= 1;
        }
    }

    pub(super) fn to(&self, step: StepId) -> usize {
        let known = self.0.iter().find(|(known, _)| *known == step);
        known.map_or(0, |(_, out)| *out)
    }
}
