//! Whether jobs that wait for others wait in vain.

/// How often waiting jobs have looked for what they wait for, since another job or batch ended here.
#[derive(Default)]
pub(super) struct Looks {
    looks: u64,
    /// The number of batches that had ended by then.
    closed: u64,
}

impl Looks {
    pub fn note(&mut self, waits: bool, closed: u64) {
        self.looks = if waits { self.since(closed) + 1 } else { 0 };
        self.closed = closed;
    }

    /// The jobs may have waited for a batch that has ended since then.
    pub fn since(&self, closed: u64) -> u64 {
        if self.closed == closed { self.looks } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_job_has_waited_in_vain_for_a_batch_that_has_just_ended() {
        let mut looks = Looks::default();
        looks.note(true, 0);
        looks.note(true, 0);
        assert_eq!(looks.since(0), 2);
        assert_eq!(looks.since(1), 0);
        looks.note(true, 1);
        assert_eq!(looks.since(1), 1);
        looks.note(false, 1);
        assert_eq!(looks.since(1), 0);
    }
}
