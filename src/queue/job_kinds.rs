//! Kinds of jobs with their code, for a worker.

use super::handler::Handler;
use super::model_call::ModelCall;

/// Kinds of jobs with their code. A [`Worker`](crate::Worker) takes them together with the route for those that call
/// a model; an [`LlmManager`](crate::LlmManager) builds that route from its settings.
#[derive(Clone, Default, derive_more::Debug)]
#[debug("{:?}", calls.iter().map(|(kind, _)| kind).chain(handlers.iter().map(|(kind, _)| kind)).collect::<Vec<_>>())]
pub struct JobKinds {
    pub(crate) calls: Vec<(String, ModelCall)>,
    pub(crate) handlers: Vec<(String, Handler)>,
}

impl JobKinds {
    /// No kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind whose jobs are one call of a model each.
    pub fn model_call(mut self, kind: impl Into<String>, call: ModelCall) -> Self {
        self.calls.push((kind.into(), call));
        self
    }

    /// Adds a kind whose jobs a handler processes.
    pub fn handler(mut self, kind: impl Into<String>, handler: Handler) -> Self {
        self.handlers.push((kind.into(), handler));
        self
    }
}
