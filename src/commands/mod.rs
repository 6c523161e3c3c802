//! Commands in parallel, each in a sandbox.
//!
//! | name | what it is for |
//! |---|---|
//! | [`Sandbox`] | what a command may do: its programs, environment, files, network and limits |
//! | [`Prepared`], [`Confined`] | such a sandbox for a run, and one command in it |
//! | [`confine_main`] | lets a program be its own helper |
//! | [`SandboxMode`] | how much of that the kernel has to enforce |
//! | [`Limits`] | how much a command may use |

mod sandbox;

pub use sandbox::limits::Limits;
pub use sandbox::prepared::{Confined, Prepared};
pub use sandbox::{Sandbox, SandboxMode, confine_main};
