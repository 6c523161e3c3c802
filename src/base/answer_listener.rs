//! Pieces of an answer, passed on while the provider still sends it.

use serde_json::Value;

use super::brief::{Bytes, Name};

/// A piece of an answer. Pieces of one kind continue each other. Its `Debug` shows its length, not its text.
#[derive(Clone, Copy, PartialEq, derive_more::Debug)]
#[non_exhaustive]
pub enum AnswerPiece<'a> {
    /// The next part of the text.
    #[debug("Text({:?})", Bytes(_0.len()))]
    Text(&'a str),
    /// The next part of the text of the reasoning.
    #[debug("Reasoning({:?})", Bytes(_0.len()))]
    Reasoning(&'a str),
    /// A call of a tool begins.
    ToolCall {
        /// The number of the call in the answer, from 0.
        number: usize,
        /// Its id; the result of the call refers to it.
        #[debug("{:?}", Name(id))]
        id: &'a str,
        /// The name of the tool.
        #[debug("{:?}", Name(name))]
        name: &'a str,
    },
    /// The next part of the arguments of a call that has begun, as the provider writes them: JSON, or the text for a
    /// custom tool.
    Arguments {
        /// The number of the call in the answer, from 0.
        number: usize,
        /// The part.
        #[debug("{:?}", Bytes(text.len()))]
        text: &'a str,
    },
    /// OpenAI's Responses API only: the next item of the output begins, with everything but its contents. The pieces
    /// that follow belong to it.
    #[debug("Item")]
    Item(&'a Value),
    /// OpenAI's Responses API only: the next part of that item begins, without its text.
    #[debug("Part")]
    Part(&'a Value),
}

/// Receives an answer in pieces while the provider sends it, see [`Context::with_listener`](crate::Context::with_listener).
/// It is called on the thread that makes the call, so it must return quickly and must not wait.
///
/// The call always returns the complete answer, and only that one counts. It can contain more than all pieces
/// together, for example because the provider does not stream. It can differ from them if a failed call was
/// repeated.
pub trait AnswerListener: Send + Sync {
    /// A call that may send pieces begins. If an earlier call of the same item failed, its pieces are not a part of the
    /// answer of this one.
    fn on_call(&self);

    /// The next piece.
    fn on_piece(&self, piece: AnswerPiece<'_>);
}
