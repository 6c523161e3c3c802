//! The values that a record sets itself, before the settings of the run are added.

use crate::llm::request::Request;

/// The values that a record sets itself.
pub(super) struct Parsed {
    pub(super) request: Request,
    /// Whether it sets the format of the answer, including plain text.
    pub(super) format: bool,
}

impl Parsed {
    pub(super) fn new(request: Request) -> Self {
        Self {
            request,
            format: false,
        }
    }
}
