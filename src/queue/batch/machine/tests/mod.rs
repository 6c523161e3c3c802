//! The machine by itself: its records, its decisions, and every order of events.

mod decisions;
mod diagram;
pub(in crate::queue::batch) mod examples;
mod exhaustive;
mod records;
mod situation;
