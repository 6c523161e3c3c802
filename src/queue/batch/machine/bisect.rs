//! Finding the line that fails a whole batch, when the provider does not name it.
//!
//! The batch is not sent again whole. Half of it is: when that half is accepted the line is in the
//! other one, which is divided in turn without being sent; when it is refused the line is there, and
//! what is left over goes back to the queue, to be sent in one batch when the line is found. So each
//! line that is found costs about as many submissions as the batch's size has binary digits, and one
//! more where it was never sent alone: only a batch of its own says that a line is bad.

use std::time::Duration;

use log::Level;

use crate::base::clock::Timestamp;
use crate::base::error::Error;

use super::apply::Change;
use super::effect::{Division, Effect, ItemEnds, OtherHalf};
use super::record::Record;
use super::state::{Bisecting, Formed, State, Submitting, Why};

/// So many bad lines in a row, without a batch that was accepted, are no bad lines.
const MOST_POISON_LINES: u32 = 3;

impl Change<'_> {
    /// A batch was refused for a line of it that nobody names.
    pub(super) fn bisect(&mut self, error: &Error) {
        let file = self.record.file().map(str::to_owned);
        self.delete_file(file);
        // What the other half held may be sound.
        self.add(Effect::TellOtherHalf(OtherHalf::Refused));
        let items = self.record.intent.items;
        let all = || Effect::SettleItems(ItemEnds::All(error.clone()));
        if items <= 1 {
            self.add(Effect::CountPoisonLine);
            return self.add(all());
        }
        if self.facts.poison_lines >= MOST_POISON_LINES {
            // It is not for a line.
            return self.add(all());
        }
        let text = format!(
            "the provider rejected batch {} for one of its {items} requests and did not report which \
             ({error}); searching for it",
            self.record.name()
        );
        self.log(Level::Warn, text);
        self.add(Effect::Divide(Division::Bisect(Why::from(error))));
    }

    /// The first half was accepted: if one line is bad, it is in this one. A line that is left alone is
    /// sent alone, since the whole batch may have been refused for what was over when its half was sent.
    pub(super) fn half_accepted(&mut self, bisecting: Bisecting) {
        if self.record.intent.items > 1 {
            self.add(Effect::Divide(Division::Bisect(bisecting.why)));
            return;
        }
        self.record.state = State::Formed(Formed::default());
        self.record.intent.begun = self.facts.now;
        self.record.went_well();
        self.wait(Duration::ZERO);
        self.save();
    }
}

impl Division {
    /// The two batches that come of one, the first half and the rest, each under a label of its own: a
    /// refused batch stays in the provider's list under the label that it had.
    pub(crate) fn of(
        &self,
        whole: &Record,
        labels: [String; 2],
        now: Timestamp,
    ) -> (Record, Record) {
        let intent = &whole.intent;
        let model = intent.model.clone();
        let [label, label_of_rest] = labels;
        let mut half = Record::new(whole.account.clone(), label, model, now);
        half.state = State::Formed(Formed::default());
        half.intent.items = intent.items / 2;
        let mut rest = whole.clone();
        rest.intent.items -= half.intent.items;
        rest.intent.label = label_of_rest;
        rest.state = match self {
            Self::Halve => {
                rest.failures = 0;
                State::Formed(Formed {
                    lost_files: match &whole.state {
                        State::Submitting(Submitting { lost_files, .. }) => *lost_files,
                        _ => 0,
                    },
                })
            }
            Self::Bisect(why) => State::Bisecting(Bisecting {
                half: half.intent.label.clone(),
                why: why.clone(),
            }),
        };
        rest.due = now;
        (half, rest)
    }
}
