//! OpenAI's endpoints that this server does not have. The status is 404: OpenAI's clients, and others, repeat a request
//! after 501, as after every status from 500 on.

use crate::problem::Problem;

/// The first part of the path behind `/v1/`, and what to use instead of what OpenAI has there.
const INSTEAD: [(&str, &str); 7] = [
    ("completions", "/v1/chat/completions"),
    ("conversations", "/v1/chat/completions"),
    ("edits", "/v1/chat/completions"),
    ("engines", "/v1/models"),
    ("organization", "/api/v1, which has the server's own"),
    ("responses", "/v1/chat/completions"),
    ("uploads", "/v1/files"),
];

/// The endpoints of this server.
const OFFERED: &str = "chat/completions, embeddings, batches, files and models";

/// Why a path below `/v1/` does not exist.
pub(crate) fn unknown(method: &str, path: &str) -> Problem {
    let first = path.split('/').nth(2).unwrap_or_default();
    let other = INSTEAD.iter().find(|(name, _)| *name == first);
    let why = match other {
        Some((_, instead)) => format!("this server does not offer {path}; use {instead}"),
        None => format!("unknown request URL: {method} {path}"),
    };
    let why = format!("{why}. The endpoints here are /v1/… {OFFERED}");
    Problem::new(404, "unknown_url", why)
}
