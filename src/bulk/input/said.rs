//! What a record says itself, before the settings of the run are filled in.

use crate::llm::request::Request;

/// What a record says itself.
pub(super) struct Parsed {
    pub(super) request: Request,
    /// It names the shape of the answer, be it plain text.
    pub(super) format: bool,
    /// How many answers it asks for.
    pub(super) samples: Option<u32>,
}

impl Parsed {
    pub(super) fn new(request: Request) -> Self {
        Self {
            request,
            format: false,
            samples: None,
        }
    }
}
