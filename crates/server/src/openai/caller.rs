//! A client that waits at its connection.

use std::time::Duration;

use batchwright::Request;

use crate::api::once;
use crate::app::App;
use crate::http::Call;
use crate::problem::Problem;
use crate::records::{Asked, Claim, Hash, Makes, hash, settled};

/// Interval of checks whether the client is still there.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// A client that waits.
pub(super) struct Caller<'a, 'c> {
    pub app: &'a App,
    pub call: &'a mut Call<'c>,
    /// A request like those that it sent, for their limits.
    pub like: Request,
}

impl<'a> Caller<'a, '_> {
    /// The number of earlier attempts, as OpenAI's clients report it; `None` for other clients, which may not retry.
    pub fn retries(&self) -> Option<u64> {
        let count = self.call.head.header("x-stainless-retry-count")?;
        count.parse().ok()
    }

    /// The hash by which a retry is recognized: that of the request and of the client's token.
    pub fn retry_hash(&self, request: Hash) -> Hash {
        let token = self.call.head.header("authorization").unwrap_or_default();
        hash(&[&request, token.as_bytes()])
    }

    /// Claims the idempotency key of the request, if it has one. Waits while another connection waits for the same
    /// answer.
    ///
    /// # Errors
    /// When the key was sent before with another request, the client is gone, or the server stops.
    pub fn claim(&mut self, request: Hash) -> Result<Option<Claim<'a>>, Problem> {
        let Some(key) = once::key(self.call)? else {
            return Ok(None);
        };
        let asked = Asked {
            request: Some(request),
            process: None,
            makes: Makes::Answer,
        };
        let mut patience = Duration::ZERO;
        loop {
            let records = &self.app.records;
            let claim = records.claim_key(key, asked, settled::time(), patience)?;
            let before = match &claim {
                Claim::Answered(before, _) | Claim::Busy(before) => *before,
                Claim::Mine(held) => held.request,
            };
            once::refuse_another(before, request)?;
            if !matches!(claim, Claim::Busy(_)) {
                return Ok(Some(claim));
            }
            if self.app.events.is_closed() {
                return Err(stopping());
            }
            self.check()?;
            patience = LOOK;
        }
    }

    /// Checks that the client is still there.
    ///
    /// # Errors
    /// When it is gone.
    pub fn check(&mut self) -> Result<(), Problem> {
        if self.call.is_gone() {
            return Err(gone());
        }
        Ok(())
    }
}

fn gone() -> Problem {
    Problem::new(499, "client_closed_request", "the client has disconnected")
}

pub(super) fn stopping() -> Problem {
    let why = "the server stops before this has ended; send it again";
    Problem::new(503, "stopping", why).header("retry-after", "1")
}
