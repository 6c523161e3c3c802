//! A kind of jobs.

use std::sync::Arc;

use crate::engine::pack::PackLimits;
use crate::llm::params::RequestTask;
use crate::llm::route::Route;

use super::handler::Handler;
use super::model_call::ModelCall;

/// What carries out the jobs of a kind.
pub(crate) enum Kind {
    /// Prompts go through a route.
    Prompts {
        route: Arc<Route<'static>>,
        task: RequestTask,
        /// What makes a request of a payload, where the payload is none, and the result of its answer.
        call: Option<ModelCall>,
    },
    /// Code of the host's.
    Host(Handler),
}

impl Kind {
    pub(crate) fn pack_limits(&self) -> PackLimits {
        match self {
            Self::Prompts { route, task, .. } => route.pack_limits(*task),
            Self::Host(_) => PackLimits::ONE,
        }
    }

    pub(crate) fn model_call(&self) -> Option<&ModelCall> {
        match self {
            Self::Prompts { call, .. } => call.as_ref(),
            Self::Host(_) => None,
        }
    }
}
