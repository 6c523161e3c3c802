//! A kind of jobs.

use std::sync::Arc;

use crate::engine::pack::PackLimits;
use crate::llm::params::RequestTask;
use crate::llm::route::Route;

use super::handler::Handler;
use super::model_call::ModelCall;

/// The code or route of the jobs of a kind.
pub(crate) enum Kind {
    /// Prompts, or jobs that are one call of a model, on a route.
    Prompts {
        route: Arc<Route<'static>>,
        task: RequestTask,
        /// How to make a request from a payload, and a result from its answer; `None` if the payload is the request.
        call: Option<ModelCall>,
    },
    /// The host's own code.
    Host(Handler),
}

impl Kind {
    pub(crate) fn pack_limits(&self) -> PackLimits {
        match self {
            Self::Prompts { route, task, .. } => route.pack_limits(*task),
            Self::Host(_) => PackLimits::ONE,
        }
    }

    /// The route of its calls; none for the host's own code.
    pub(crate) fn route(&self) -> Option<&Arc<Route<'static>>> {
        match self {
            Self::Prompts { route, .. } => Some(route),
            Self::Host(_) => None,
        }
    }

    pub(crate) fn model_call(&self) -> Option<&ModelCall> {
        match self {
            Self::Prompts { call, .. } => call.as_ref(),
            Self::Host(_) => None,
        }
    }
}
