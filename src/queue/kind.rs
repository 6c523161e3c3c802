//! A kind of jobs.

use std::sync::Arc;

use crate::engine::pack::PackLimits;
use crate::llm::params::RequestTask;
use crate::llm::route::Route;

use super::handler::Handler;

/// What carries out the jobs of a kind.
pub(crate) enum Kind {
    /// Prompts go through a route.
    Prompts {
        route: Arc<Route<'static>>,
        task: RequestTask,
    },
    /// Code of the host's.
    Host(Handler),
}

impl Kind {
    pub(crate) fn pack_limits(&self) -> PackLimits {
        match self {
            Self::Prompts { route, task } => route.pack_limits(*task),
            Self::Host(_) => PackLimits::ONE,
        }
    }
}
