//! What is to be done with a batch next: decided from what is written down of it, and nothing else.

use crate::config::choices::OnUnknown;
use crate::llm::batch::BatchStage;

use super::super::settings::LOOKS;
use super::record::{Phase, Record};

/// What is to be done with a batch next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Move jobs into it and write their lines.
    Pack,
    /// Take the next step of handing it over, one that creates nothing.
    Upload,
    /// Create it.
    Create,
    /// Look for it in the provider's list.
    Look,
    /// Delete its input file at the provider, so that it can no longer come into being.
    Fence,
    /// Nobody has it: give its jobs back.
    GiveUp,
    /// Cancel one of those that were created beside it.
    CancelSpare,
    /// Cancel it at the provider.
    Cancel,
    /// Ask where it stands.
    Poll,
    /// Fetch its results and store them.
    Collect,
    /// Nothing by itself: another batch's fate decides.
    Wait,
}

/// Decides. `stopped` when its process was cancelled, `uploads` when its input travels as a file.
pub(crate) fn next(record: &Record, stopped: bool, uploads: bool, policy: OnUnknown) -> Step {
    if let Some(doubt) = &record.doubt {
        // A list that lags shows it later; what was certainly never there is given up only after
        // the file is gone that a late creation would need.
        return match (policy, uploads) {
            _ if doubt.looks < LOOKS => Step::Look,
            (OnUnknown::Hold, _) => Step::Look,
            (OnUnknown::Resubmit, true) if !doubt.fenced => Step::Fence,
            (OnUnknown::Resubmit, true) if !doubt.confirmed => Step::Look,
            (OnUnknown::Resubmit, _) => Step::GiveUp,
        };
    }
    match &record.phase {
        Phase::Filling | Phase::Packed if stopped => Step::GiveUp,
        Phase::Filling | Phase::Packed => Step::Pack,
        Phase::Handing { stage } => {
            let creates = match stage {
                BatchStage::Ready => !uploads,
                BatchStage::Uploaded { .. } | BatchStage::Created { .. } => true,
            };
            match creates {
                // It may exist: whoever was about to create it did not say what came of it.
                true if record.tried => Step::Look,
                _ if stopped => Step::GiveUp,
                true => Step::Create,
                false => Step::Upload,
            }
        }
        Phase::Running { .. } if !record.spare.is_empty() => Step::CancelSpare,
        // What may be somebody else's is not ours to cancel.
        Phase::Running { .. } if stopped && !record.cancelled && !record.provisional => {
            Step::Cancel
        }
        Phase::Running { .. } => Step::Poll,
        Phase::Ended(_) => Step::Collect,
        Phase::Suspect { .. } if stopped => Step::GiveUp,
        Phase::Suspect { .. } => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Timestamp;
    use crate::llm::batch::BatchAccount;
    use crate::queue::batch::machine::record::Doubt;

    fn record(phase: Phase, tried: bool) -> Record {
        let account = BatchAccount {
            provider: "openai".to_owned(),
            base_url: String::new(),
            credential: String::new(),
        };
        let mut record = Record::new(account, "l".to_owned(), None, Timestamp(0));
        (record.phase, record.tried) = (phase, tried);
        record
    }

    fn ready() -> Phase {
        Phase::Handing {
            stage: BatchStage::Ready,
        }
    }

    fn uploaded() -> Phase {
        Phase::Handing {
            stage: BatchStage::Uploaded {
                file: "f".to_owned(),
                time: None,
            },
        }
    }

    use OnUnknown::{Hold, Resubmit};

    #[test]
    fn a_creation_that_was_tried_is_looked_for_and_an_upload_is_repeated() {
        let next = |phase, tried, uploads| next(&record(phase, tried), false, uploads, Resubmit);
        assert_eq!(next(ready(), false, true), Step::Upload);
        assert_eq!(next(ready(), true, true), Step::Upload);
        assert_eq!(next(ready(), false, false), Step::Create);
        assert_eq!(next(ready(), true, false), Step::Look);
        assert_eq!(next(uploaded(), false, true), Step::Create);
        assert_eq!(next(uploaded(), true, true), Step::Look);
    }

    #[test]
    fn nothing_is_sent_again_before_the_file_is_gone_and_the_list_was_read_once_more() {
        let mut record = record(uploaded(), true);
        let mut steps = Vec::new();
        record.doubt = Some(Doubt::default());
        for _ in 0..20 {
            let step = next(&record, false, true, Resubmit);
            steps.push(step);
            let doubt = record.doubt.as_mut().unwrap();
            match step {
                Step::Look => {
                    doubt.looks += 1;
                    doubt.confirmed = doubt.fenced;
                }
                Step::Fence => doubt.fenced = true,
                _ => break,
            }
        }
        let looks = vec![Step::Look; LOOKS as usize];
        assert_eq!(steps[..looks.len()], looks);
        assert_eq!(
            steps[looks.len()..],
            [Step::Fence, Step::Look, Step::GiveUp]
        );
    }

    #[test]
    fn what_was_held_for_long_is_looked_for_once_more_after_its_file_is_gone() {
        let mut record = record(uploaded(), true);
        // Held by choice, and looked for ever since; now it is to be sent again.
        let doubt = Doubt {
            looks: LOOKS + 3,
            fenced: true,
            held: true,
            ..Doubt::default()
        };
        record.doubt = Some(doubt);
        assert_eq!(next(&record, false, true, Resubmit), Step::Look);
    }

    #[test]
    fn what_cannot_be_fenced_is_held_unless_told_otherwise() {
        let mut record = record(ready(), true);
        for looks in 0..100 {
            record.doubt = Some(Doubt {
                looks,
                ..Doubt::default()
            });
            assert_eq!(next(&record, false, false, Hold), Step::Look);
        }
        assert_eq!(next(&record, false, false, Resubmit), Step::GiveUp);
    }

    #[test]
    fn a_cancelled_process_takes_its_batches_along() {
        let next = |record: &Record| next(record, true, true, Resubmit);
        let running = || Phase::Running {
            id: "b".to_owned(),
            file: None,
        };
        for (phase, step) in [
            (Phase::Filling, Step::GiveUp),
            (Phase::Packed, Step::GiveUp),
            (ready(), Step::GiveUp),
            (uploaded(), Step::GiveUp),
            (running(), Step::Cancel),
        ] {
            assert_eq!(next(&record(phase, false)), step);
        }
        // What may exist is found first, and cancelled then.
        assert_eq!(next(&record(uploaded(), true)), Step::Look);
        let mut asked = record(running(), false);
        asked.cancelled = true;
        assert_eq!(next(&asked), Step::Poll);
        let mut presumed = record(running(), false);
        presumed.provisional = true;
        assert_eq!(next(&presumed), Step::Poll);
    }
}
