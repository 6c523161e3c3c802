//! The server through its public API, as clients meet it.

mod batch_owner;
mod bodies;
mod common;
mod dashboard;
mod events;
mod guard;
mod jobs;
mod limits;
mod once;
mod openai;
mod openai_delivered;
mod openai_direct;
mod openai_edges;
mod openai_more;
mod openai_once;
mod openai_parts;
mod openapi;
mod processes;
mod readiness;
mod search;
mod settings;
mod storage;
mod thousand;
mod tokens;
mod webhooks;
