//! Detects that the first ten replies of a provider failed in the same way before it answered anything. Further calls
//! would fail in the same way.

use crate::base::brief::beginning;
use crate::base::{Error, ErrorKind};

use super::class::StepId;

/// Consecutive equal failures that suffice.
const ENOUGH: u32 = 10;
/// Bytes of the last reply that the message shows.
const HEAD: usize = 160;

/// By step.
#[derive(Debug, Default)]
pub(super) struct FirstReplies(Vec<(StepId, Replies)>);

#[derive(Debug, Default)]
struct Replies {
    answered: bool,
    /// Consecutive complete but unusable replies.
    unusable: u32,
    /// Consecutive rejections with the same message.
    refused: u32,
    words: Option<(Option<u16>, String)>,
}

impl FirstReplies {
    fn of(&mut self, step: StepId) -> &mut Replies {
        let at = self.0.iter().position(|(known, _)| *known == step);
        let at = at.unwrap_or_else(|| {
            self.0.push((step, Replies::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// The step has answered a prompt: later failures concern single prompts.
    pub(super) fn answered(&mut self, step: StepId) {
        self.of(step).answered = true;
    }

    /// Records a failure. Returns the error that ends the run if all further calls would fail in the same way.
    pub(super) fn failed(&mut self, step: StepId, error: &Error) -> Option<Error> {
        let replies = self.of(step);
        let complete = error.status().is_none_or(|status| status < 300);
        let malformed = error.kind() == ErrorKind::Malformed && complete;
        let unusable = malformed || error.is_unusable_reply();
        let is_reply = error.status().is_some() || unusable;
        // Temporary failures do not show how the provider treats a request.
        let trouble = matches!(error.kind(), ErrorKind::Transient | ErrorKind::RateLimited);
        if replies.answered || !is_reply || trouble {
            return None;
        }
        if unusable {
            (replies.refused, replies.words) = (0, None);
            replies.unusable += 1;
            return (replies.unusable == ENOUGH).then(|| {
                let head = beginning(error.raw().unwrap_or_default(), HEAD);
                error.clone().reworded(format!(
                    "the first {ENOUGH} replies were all unusable, and each was billed: {error}; \
                     the last one begins with {head:?}"
                ))
            });
        }
        replies.unusable = 0;
        if !error.is_unclassified() {
            (replies.refused, replies.words) = (0, None);
            return None;
        }
        let words = (error.status(), without_numbers(error.message()));
        if replies.words.as_ref() != Some(&words) {
            (replies.refused, replies.words) = (0, Some(words));
        }
        replies.refused += 1;
        (replies.refused == ENOUGH).then(|| {
            let why = format!(
                "the first {ENOUGH} requests were all rejected with the same message: {error}"
            );
            error.clone().reworded(why)
        })
    }
}

/// The message without words that contain digits (numbers, ids, times), which differ from call to call.
fn without_numbers(message: &str) -> String {
    let words = message.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
    let words =
        words.filter(|word| !word.is_empty() && !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Sent;
    use crate::engine::class::Class;

    fn step() -> StepId {
        Class::new([]).at(0)
    }

    fn unusable() -> Error {
        let error = Error::new(ErrorKind::Malformed, "not a usable reply");
        error.with_unusable_reply("<html>\u{1b}[2J\n\u{202e}")
    }

    fn refused(message: String) -> Error {
        let error = Error::new(ErrorKind::Invalid, message).with_sent(Sent::Answered);
        error.with_status(400).with_unclassified()
    }

    fn count(replies: &mut FirstReplies, error: impl Fn(u32) -> Error) -> Option<(u32, Error)> {
        (1..50).find_map(|n| replies.failed(step(), &error(n)).map(|error| (n, error)))
    }

    #[test]
    fn ten_unusable_replies_suffice_and_the_last_is_shown_safely() {
        let (n, error) = count(&mut FirstReplies::default(), |_| unusable()).unwrap();
        assert_eq!(n, 10);
        let shown = error.message();
        assert!(
            shown.contains(r#"begins with "<html>\u{1b}[2J\n\u{202e}""#),
            "{shown}"
        );
        let long = |_| Error::new(ErrorKind::Malformed, "no").with_unusable_reply("ä".repeat(9999));
        let (_, error) = count(&mut FirstReplies::default(), long).unwrap();
        assert!(error.message().len() < 400, "{error}");
    }

    #[test]
    fn ten_identical_rejections_suffice_whatever_their_numbers() {
        let alike = |n| refused(format!("no tier for team-{n} (request req_{n}a, {n} ms)"));
        let (n, error) = count(&mut FirstReplies::default(), alike).unwrap();
        assert_eq!((n, error.status()), (10, Some(400)));
        let letters = |n| {
            refused(format!(
                "field {} is wrong",
                char::from(b'a' + n as u8 % 20)
            ))
        };
        assert!(count(&mut FirstReplies::default(), letters).is_none());
    }

    #[test]
    fn an_answer_or_another_reply_in_between_makes_them_single_failures() {
        let mut replies = FirstReplies::default();
        replies.answered(step());
        assert!(count(&mut replies, |_| unusable()).is_none());
        let blocked = Error::new(ErrorKind::Blocked, "no").with_status(400);
        let mixed = |n: u32| {
            if n.is_multiple_of(9) {
                blocked.clone()
            } else {
                unusable()
            }
        };
        assert!(count(&mut FirstReplies::default(), mixed).is_none());
        // An error that a rule of the table recognizes concerns one prompt.
        let known = |_| Error::new(ErrorKind::Invalid, "too long").with_status(400);
        assert!(count(&mut FirstReplies::default(), known).is_none());
        let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
        let troubled = |n: u32| {
            if n.is_multiple_of(2) {
                busy.clone()
            } else {
                unusable()
            }
        };
        let (n, _) = count(&mut FirstReplies::default(), troubled).unwrap();
        assert_eq!(n, 19);
    }
}
