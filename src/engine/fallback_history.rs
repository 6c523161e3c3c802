//! Why an item has left earlier steps of its route.

use std::sync::Arc;

use crate::base::brief::beginning;
use crate::base::{Error, ErrorKind, Optional};

/// The steps that an item has left; empty by default. In 8 bytes, because most waiting items have never failed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FallbackHistory(Option<Arc<Left>>);

#[derive(Debug, PartialEq, Eq)]
struct Left {
    before: FallbackHistory,
    step: u8,
    kind: ErrorKind,
    status: Option<u16>,
    message: String,
}

/// Longer messages are cut.
const MAX_MESSAGE_BYTES: usize = 300;

impl FallbackHistory {
    /// The same after the item has left this step too, because of this error.
    pub(crate) fn and(self, step: u8, error: &Error) -> Self {
        Self(Some(Arc::new(Left {
            before: self,
            step,
            kind: error.kind(),
            status: error.status(),
            message: beginning(error.message(), MAX_MESSAGE_BYTES).into(),
        })))
    }

    /// The steps and their errors, in order.
    pub(crate) fn steps(&self) -> Vec<(u8, Error)> {
        let last = std::iter::successors(self.0.as_deref(), |left| left.before.0.as_deref());
        let error = |left: &Left| {
            let error = Error::new(left.kind, left.message.clone());
            (left.step, error.set(left.status, Error::with_status))
        };
        let mut steps: Vec<_> = last.map(error).collect();
        steps.reverse();
        steps
    }
}
