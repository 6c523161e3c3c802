//! OpenAI's endpoints that this server does not have. The status is 404: OpenAI's clients, and others, repeat a request
//! after 501, as after every status from 500 on.

use crate::problem::Problem;

/// The first part of the path behind `/v1/`, and what OpenAI has there.
const OTHERS: [(&str, &str); 23] = [
    ("assistants", "the Assistants API"),
    ("audio", "speech and transcription"),
    ("chatkit", "ChatKit"),
    ("containers", "containers"),
    ("completions", "older completions; use /v1/chat/completions"),
    ("conversations", "conversations; use /v1/chat/completions"),
    ("edits", "edits; use /v1/chat/completions"),
    ("engines", "engines; use /v1/models"),
    ("evals", "evaluations"),
    ("fine-tunes", "fine-tuning"),
    ("fine_tuning", "fine-tuning"),
    ("graders", "graders"),
    ("images", "images"),
    ("moderations", "moderations"),
    (
        "organization",
        "the administration API; /api/v1 has the server's own",
    ),
    (
        "projects",
        "the administration API; /api/v1 has the server's own",
    ),
    ("realtime", "the Realtime API"),
    ("responses", "the Responses API; use /v1/chat/completions"),
    ("skills", "skills"),
    ("threads", "the Assistants API"),
    ("uploads", "uploads in parts; use /v1/files"),
    ("vector_stores", "vector stores"),
    ("videos", "videos"),
];

/// The endpoints of this server.
const OFFERED: &str = "chat/completions, embeddings, batches, files and models";

/// Why a path below `/v1/` does not exist.
pub(crate) fn unknown(method: &str, path: &str) -> Problem {
    let first = path.split('/').nth(2).unwrap_or_default();
    let other = OTHERS.iter().find(|(name, _)| *name == first);
    let why = match other {
        Some((_, what)) => format!("this server does not offer {what}"),
        None => format!("unknown request URL: {method} {path}"),
    };
    let why = format!("{why}. The endpoints here are /v1/… {OFFERED}");
    Problem::new(404, "unknown_url", why)
}
