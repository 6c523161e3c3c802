//! Commands in parallel, each in a sandbox.
//!
//! | name | what it is for |
//! |---|---|
//! | [`SandboxMode`] | how much of its sandbox the kernel has to enforce |
//! | [`Limits`] | how much a command may use |

mod sandbox;

pub use sandbox::SandboxMode;
pub use sandbox::limits::Limits;
