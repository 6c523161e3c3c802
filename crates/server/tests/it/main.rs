//! The server through its public API, as clients meet it.

mod bodies;
mod common;
mod document;
mod events;
mod guard;
mod jobs;
mod openai;
mod openai_delivered;
mod openai_direct;
mod openai_edges;
mod openai_once;
mod openai_parts;
mod processes;
mod readiness;
mod settings;
