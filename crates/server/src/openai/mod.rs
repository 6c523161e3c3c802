//! OpenAI's shapes under `/v1`, over the same queue: programs written against OpenAI's Batch API change their base URL.

use crate::router::Route;

/// What is answered here.
pub(crate) const ROUTES: &[Route] = &[];
