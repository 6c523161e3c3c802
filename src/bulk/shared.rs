//! Answers that several items of a file share: the call is made for one of them, and its outcome is written for the
//! others.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::base::{Context, Error};
use crate::llm::outcome::Outcome;

use super::equals::Equals;
use super::input::{FileIndex, InputFile, State};
use super::lines::{Equal, Lines, Named};
use super::open_output::OpenOutput;

/// Number of bytes that are written at once for items that share an answer; the rest follows in pieces of this size.
const PIECE_BYTES: usize = 256 << 10;
/// A failure is copied to at most this number of duplicates before the next one is sent itself.
const PIECE_FAILURES: u32 = 1024;

/// The items of a file, and which of them share answers.
pub(super) struct SharedFile {
    pub input: Arc<InputFile>,
    pub index: Arc<FileIndex>,
    pub equals: Equals,
    /// Groups that need more lines or calls.
    again: Mutex<VecDeque<Again>>,
}

/// The rest of a group.
pub(super) struct Again {
    pub item: u32,
    /// The positions that get the answer.
    pub places: Range<u32>,
    /// The answer to all of them, or a failure of all, and the step of the route that returned it.
    pub answer: Option<(Arc<Outcome>, u8)>,
}

/// The progress in a group.
pub(super) struct Dealt {
    /// The first position without a line.
    next: u32,
    /// Items whose requests differ after all.
    apart: Vec<u32>,
    answer: Option<Arc<Outcome>>,
    /// Number of items that share the failure, and how many of them had a line already.
    failed: (u64, u64),
}

impl SharedFile {
    pub(super) fn new(input: Arc<InputFile>, index: Arc<FileIndex>, equals: Equals) -> Self {
        Self {
            input,
            index,
            equals,
            again: Mutex::default(),
        }
    }

    /// The next rest of a group, if there is any.
    pub(super) fn next(&self) -> Option<Again> {
        self.again.lock().pop_front()
    }

    pub(super) fn put_back(&self, again: Again) {
        self.again.lock().push_front(again);
    }

    /// The item with its id, if its request equals that of the outcome.
    pub(super) fn equal(&self, item: usize, outcome: &Outcome) -> Option<Equal> {
        let read = self.input.read(item, &self.index).ok();
        let same = |hash: &str| outcome.request_hash.as_deref() == Some(hash);
        let read = read.filter(|item| same(&item.request_hash))?;
        Some(Equal {
            named: Named::of(read),
            supersedes: self.index.state(item) != State::New,
        })
    }

    /// Adds the lines of the items at these positions, up to the size of a piece.
    pub(super) fn answer(
        &self,
        outcome: &Outcome,
        places: Range<u32>,
        lines: &mut Lines,
    ) -> (u32, Vec<u32>) {
        let (begins, mut apart) = (lines.bytes.len(), Vec::new());
        for place in places.clone() {
            if lines.bytes.len() - begins >= PIECE_BYTES {
                return (place, apart);
            }
            let item = self.equals.item(place);
            match self.equal(item, outcome) {
                Some(equal) => lines.add_equal(outcome, &equal),
                None => apart.push(item as u32),
            }
        }
        (places.end, apart)
    }

    /// Writes these lines, and then those of the items at these positions, piece by piece; `told` receives each written
    /// piece.
    pub(super) fn write(
        &self,
        outcome: &Outcome,
        places: Range<u32>,
        mut lines: Lines,
        output: &mut OpenOutput,
        told: &mut dyn FnMut(&Lines),
        ctx: &Context,
    ) -> Result<(), Error> {
        let mut next = places.start;
        loop {
            let apart;
            (next, apart) = self.answer(outcome, next..places.end, &mut lines);
            self.ask(apart);
            output.write(&lines.bytes)?;
            told(&lines);
            if next >= places.end || ctx.is_cancelled() {
                return Ok(());
            }
            lines = Lines::default();
        }
    }

    fn leave(&self, dealt: &Dealt, places: &Range<u32>, step: u8) {
        let mut again = self.again.lock();
        if dealt.next < places.end {
            let item = self.equals.item(dealt.next) as u32;
            again.push_back(match &dealt.answer {
                Some(answer) => Again {
                    item,
                    places: dealt.next..places.end,
                    answer: Some((answer.clone(), step)),
                },
                None => Again::asked(item, dealt.next + 1..places.end),
            });
        }
        let apart = dealt.apart.iter();
        again.extend(apart.map(|item| Again::asked(*item, 0..0)));
    }

    /// Sends these items separately.
    pub(super) fn ask(&self, items: impl IntoIterator<Item = u32>) {
        let asked = items.into_iter().map(|item| Again::asked(item, 0..0));
        self.again.lock().extend(asked);
    }
}

impl Again {
    fn asked(item: u32, places: Range<u32>) -> Self {
        Self {
            item,
            places,
            answer: None,
        }
    }
}

/// A task of a file: its position, and its id once a worker has read it.
pub(crate) struct FileTask {
    pub index: u32,
    pub supersedes: bool,
    pub named: OnceLock<Named>,
    /// The items that share its answer.
    pub group: Option<Box<Group>>,
}

impl FileTask {
    pub(super) fn needs_call(&self) -> bool {
        let group = self.group.as_ref();
        group.is_none_or(|group| group.answer.is_none())
    }
}

/// Items that share the answer of a task.
pub(super) struct Group {
    pub shared: Arc<SharedFile>,
    pub places: Range<u32>,
    /// Their answer, and that of the item itself, if it is known.
    pub answer: Option<(Arc<Outcome>, u8)>,
    dealt: OnceLock<Dealt>,
}

impl Group {
    pub(super) fn new(shared: &Arc<SharedFile>, again: Again) -> Self {
        Self {
            shared: shared.clone(),
            places: again.places,
            answer: again.answer,
            dealt: OnceLock::new(),
        }
    }

    fn answer(&self, outcome: Arc<Outcome>, lines: &mut Lines) {
        let (next, apart) = self.shared.answer(&outcome, self.places.clone(), lines);
        // If the write failed, it is retried.
        let _ = self.dealt.set(Dealt {
            next,
            apart,
            failed: lines.failed_too(),
            answer: Some(outcome),
        });
    }

    /// Fails some of the items with the outcome. A billed failure is copied to all of them; after any other failure,
    /// the next item is sent for the rest.
    fn fail(&self, outcome: Outcome, lines: &mut Lines) {
        let error = outcome.result.as_ref().err();
        if error.is_some_and(Error::is_unusable_reply) {
            return self.answer(Arc::new(outcome), lines);
        }
        let Range { start, end } = self.places;
        let last = end.min(start.saturating_add(PIECE_FAILURES));
        let (mut next, mut apart) = (start, Vec::new());
        while next < last {
            let more;
            (next, more) = self.shared.answer(&outcome, next..last, lines);
            apart.extend(more);
        }
        let _ = self.dealt.set(Dealt {
            next,
            apart,
            failed: lines.failed_too(),
            answer: None,
        });
    }
}

impl FileTask {
    /// `None` until the task was read.
    pub(super) fn named(&self) -> Option<&Named> {
        self.named.get()
    }

    /// Adds the lines of the items that share its answer or its failure.
    pub(super) fn ended(&self, outcome: Outcome, lines: &mut Lines) {
        match &self.group {
            Some(group) if outcome.is_success() => group.answer(Arc::new(outcome), lines),
            Some(group) => group.fail(outcome, lines),
            None => {}
        }
    }

    /// Its lines, and those of the items that share its answer, if the answer is known already.
    pub(super) fn known(&self) -> Option<Lines> {
        let group = self.group.as_ref()?;
        let (answer, _) = group.answer.as_ref()?;
        let mut lines = Lines::default();
        group.answer(answer.clone(), &mut lines);
        Some(lines)
    }

    /// Number of items that share its failure, and how many of them had a line already.
    pub(super) fn failed_too(&self) -> (u64, u64) {
        let dealt = self.group.as_ref().and_then(|group| group.dealt.get());
        dealt.map_or((0, 0), |dealt| dealt.failed)
    }

    /// Its lines are written; the answer came from that step of the route.
    pub(super) fn settled(&self, step: u8) {
        if let Some(group) = &self.group
            && let Some(dealt) = group.dealt.get()
        {
            group.shared.leave(dealt, &group.places, step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::equals::tests::checked;
    use crate::llm::response::Response;

    /// Simulates equal first bytes of these request hashes.
    #[test]
    fn an_item_with_a_different_request_is_sent_itself() {
        let file = checked(&["a", "b", "a"]);
        let index = Arc::new(file.items.finish());
        let equals = Equals::of(&index, |_| true);
        let hash = |item| file.input.read(item, &index).unwrap().request_hash;
        let mut outcome = Outcome::new(Some("x".to_owned()), Ok(Response::new("p", "text")));
        outcome.request_hash = Some(hash(0));
        let shared = Arc::new(SharedFile::new(file.input.clone(), index.clone(), equals));
        let again = Again::asked(0, 0..3);
        let task = FileTask {
            index: 0,
            supersedes: false,
            named: OnceLock::new(),
            group: Some(Box::new(Group::new(&shared, again))),
        };
        let mut lines = Lines::default();
        task.ended(outcome, &mut lines);
        assert_eq!((lines.measure.items, lines.measure.shared), (2, 2));
        assert_eq!(lines.bytes.iter().filter(|byte| **byte == b'\n').count(), 2);
        assert!(
            shared.next().is_none(),
            "nothing before its lines are written"
        );
        task.settled(0);
        let left = shared.next().unwrap();
        assert_eq!((left.item, left.places), (1, 0..0));
        assert!(left.answer.is_none() && shared.next().is_none());
    }
}
