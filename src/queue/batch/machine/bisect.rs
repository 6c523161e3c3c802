//! Finding the line that makes a provider reject a whole batch without naming the line.
//!
//! Half of the batch is sent. If it is accepted, the line is in the other half, which is divided in turn without
//! being sent. If it is rejected, the line is in it, and the other half returns to the queue until the line is found.
//! So each poison line costs about as many submissions as the batch's size has binary digits, and one more if it was
//! never sent by itself: only a batch of one line proves that the line is bad.

use std::time::Duration;

use log::Level;

use crate::base::{Error, Timestamp};

use super::apply::Change;
use super::effect::{Division, Effect, ItemEnds, OtherHalf};
use super::record::Record;
use super::state::{Bisecting, Formed, State, Submitting, Why};

/// This many poison lines in a row, without an accepted batch, have another cause than the lines.
const MOST_POISON_LINES: u32 = 3;

impl Change<'_> {
    /// A batch was rejected because of an unnamed line.
    pub(super) fn bisect(&mut self, error: &Error) {
        let file = self.record.file().map(str::to_owned);
        self.delete_file(file);
        // The other half may be valid.
        self.add(Effect::ReportToOtherHalf(OtherHalf::Refused));
        let items = self.record.intent.items;
        let all = || Effect::SettleItems(ItemEnds::All(error.clone()));
        if items <= 1 {
            self.add(Effect::CountPoisonLine);
            return self.add(all());
        }
        if self.facts.poison_lines >= MOST_POISON_LINES {
            // The line is not the cause.
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

    /// The first half was accepted: if one line is bad, it is in this batch. A last line is sent by itself, because
    /// the original rejection may have had a temporary cause.
    pub(super) fn half_accepted(&mut self, bisecting: Bisecting) {
        if self.record.intent.items > 1 {
            self.add(Effect::Divide(Division::Bisect(bisecting.why)));
            return;
        }
        self.record.state = State::Formed(Formed::default());
        self.record.intent.begun = self.facts.now;
        self.record.clear_failures();
        self.wait(Duration::ZERO);
        self.save();
    }
}

impl Division {
    /// The two new batches, the first half and the rest. Each has a new label, because a rejected batch stays in the
    /// provider's list under its label.
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
        half.payer.clone_from(&whole.payer);
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
