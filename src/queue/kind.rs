//! A kind of jobs.

use std::sync::Arc;

use crate::base::Error;
use crate::engine::pack::PackLimits;
use crate::llm::params::RequestTask;
use crate::llm::route::Route;
use crate::money::budget::{Budget, LimitReached};

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

    /// Why no call is made for now, if a budget that is shared with other OS processes is used up or cannot be counted. It
    /// reads no file: [`look_at_budgets`](Self::look_at_budgets) does.
    pub(crate) fn used_up(&self) -> Option<Error> {
        match self {
            Self::Prompts { route, .. } => route.was_used_up(),
            Self::Host(_) => None,
        }
    }

    /// Looks whether budgets that are shared with other OS processes allow calls again.
    pub(crate) fn look_at_budgets(&self) {
        if let Self::Prompts { route, .. } = self {
            let _ = route.used_up();
        }
    }

    /// The limit that allows no further call, if it is shared with other OS processes.
    pub(crate) fn limit_reached(&self) -> Option<LimitReached> {
        let Self::Prompts { route, .. } = self else {
            return None;
        };
        let mut reached = route.shared_budgets().find_map(Budget::reached)?;
        reached.name.push_str(" (llm.monthly_budget)");
        Some(reached)
    }

    /// Whether calls are tried, as the budgets allow that other OS processes share.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Prompts { route, .. } => route.is_open(),
            Self::Host(_) => true,
        }
    }

    /// Whether calls are tried only once in a while, because such a budget is used up.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Prompts { route, .. } => route.is_closed(),
            Self::Host(_) => false,
        }
    }

    pub(crate) fn model_call(&self) -> Option<&ModelCall> {
        match self {
            Self::Prompts { call, .. } => call.as_ref(),
            Self::Host(_) => None,
        }
    }
}
