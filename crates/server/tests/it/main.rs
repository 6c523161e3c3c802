//! The server through its public API, as clients meet it.

#[allow(dead_code)] // Until all handlers are in.
mod common;
mod dashboard;
mod guard;
mod jobs;
mod life;
mod openai;
mod openapi;
mod settings;
