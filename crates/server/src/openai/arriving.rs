//! An answer that arrives in pieces, on its way from the thread of its call to the thread of its client. The call never
//! waits: if the client is slower, pieces are joined, and from a limit on they are left out, because the complete answer
//! has them, too.

use batchwright::client::{AnswerListener, AnswerPiece};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use serde_json::Value;

/// Most bytes of pieces that wait for the client.
const MOST_WAITING: usize = 256 << 10;

/// A piece of an answer, see [`AnswerPiece`].
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    Text(String),
    Reasoning(String),
    ToolCall {
        number: usize,
        id: String,
        name: String,
    },
    Arguments {
        number: usize,
        text: String,
    },
    Item(Value),
    Part(Value),
}

impl Piece {
    fn of(piece: AnswerPiece<'_>) -> Option<Self> {
        Some(match piece {
            AnswerPiece::Text(text) => Self::Text(text.to_owned()),
            AnswerPiece::Reasoning(text) => Self::Reasoning(text.to_owned()),
            AnswerPiece::ToolCall { number, id, name } => Self::ToolCall {
                number,
                id: id.to_owned(),
                name: name.to_owned(),
            },
            AnswerPiece::Arguments { number, text } => Self::Arguments {
                number,
                text: text.to_owned(),
            },
            AnswerPiece::Item(item) => Self::Item(item.clone()),
            AnswerPiece::Part(part) => Self::Part(part.clone()),
            _ => return None,
        })
    }

    /// Adds the next piece, if it continues this one.
    fn add(&mut self, piece: AnswerPiece<'_>) -> bool {
        match (self, piece) {
            (Self::Text(text), AnswerPiece::Text(more))
            | (Self::Reasoning(text), AnswerPiece::Reasoning(more)) => text.push_str(more),
            (
                Self::Arguments { number, text },
                AnswerPiece::Arguments {
                    number: of,
                    text: more,
                },
            ) if *number == of => {
                text.push_str(more);
            }
            _ => return false,
        }
        true
    }
}

/// The bytes that a piece takes.
fn weight(piece: AnswerPiece<'_>) -> usize {
    match piece {
        AnswerPiece::Text(text)
        | AnswerPiece::Reasoning(text)
        | AnswerPiece::Arguments { text, .. } => text.len(),
        AnswerPiece::ToolCall { id, name, .. } => id.len() + name.len(),
        AnswerPiece::Item(json) | AnswerPiece::Part(json) => json.to_string().len(),
        _ => 0,
    }
}

/// The pieces that wait for the client.
pub(crate) struct Arriving {
    now: Mutex<Now>,
    /// Wakes the client's thread.
    told: Sender<()>,
}

#[derive(Default)]
struct Now {
    pieces: Vec<Piece>,
    bytes: usize,
    /// A call has sent pieces.
    has_any: bool,
    /// No further pieces are accepted.
    is_closed: bool,
}

impl Arriving {
    pub fn new(told: Sender<()>) -> Self {
        Self {
            now: Mutex::default(),
            told,
        }
    }

    /// Takes the pieces that have arrived since the last time.
    pub fn take(&self) -> Vec<Piece> {
        let mut now = self.now.lock();
        now.bytes = 0;
        std::mem::take(&mut now.pieces)
    }

    /// The client has left, or has the complete answer.
    pub fn close(&self) {
        *self.now.lock() = Now {
            is_closed: true,
            ..Now::default()
        };
    }
}

impl AnswerListener for Arriving {
    fn on_call(&self) {
        let mut now = self.now.lock();
        // The answer of a repeated call may be another one: the client gets the rest from the complete answer.
        now.is_closed |= now.has_any;
    }

    fn on_piece(&self, piece: AnswerPiece<'_>) {
        let mut now = self.now.lock();
        if now.is_closed {
            return;
        }
        now.bytes += weight(piece);
        now.is_closed = now.bytes > MOST_WAITING;
        if now.is_closed {
            return;
        }
        now.has_any = true;
        if now.pieces.last_mut().is_some_and(|last| last.add(piece)) {
            return;
        }
        now.pieces.extend(Piece::of(piece));
        // Full: a message is waiting already.
        let _ = self.told.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn pieces_that_wait_are_joined_and_those_beyond_the_limit_or_of_a_repeated_call_are_left_out() {
        let (told, woken) = bounded(1);
        let arriving = Arriving::new(told);
        arriving.on_call();
        // A call without pieces may be repeated.
        arriving.on_call();
        arriving.on_piece(AnswerPiece::Reasoning("a"));
        assert!(woken.try_recv().is_ok());
        arriving.on_piece(AnswerPiece::Reasoning("b"));
        assert!(woken.try_recv().is_err(), "it was told already");
        arriving.on_piece(AnswerPiece::Text("c"));
        let expected = [
            Piece::Reasoning("ab".to_owned()),
            Piece::Text("c".to_owned()),
        ];
        assert_eq!(arriving.take(), expected);
        let long = "x".repeat(MOST_WAITING / 2 + 1);
        for _ in 0..4 {
            arriving.on_piece(AnswerPiece::Text(&long));
        }
        assert_eq!(arriving.take(), [Piece::Text(long)]);
        arriving.on_piece(AnswerPiece::Text("later"));
        assert_eq!(arriving.take(), []);

        let (told, _woken) = bounded(1);
        let arriving = Arriving::new(told);
        arriving.on_call();
        arriving.on_piece(AnswerPiece::Text("a"));
        arriving.on_call();
        arriving.on_piece(AnswerPiece::Text("b"));
        assert_eq!(arriving.take(), [Piece::Text("a".to_owned())]);
    }
}
