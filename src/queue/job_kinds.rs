//! Kinds of jobs with their code, for a worker.

use std::fmt;

use super::handler::Handler;
use super::model_call::ModelCall;

/// Kinds of jobs with their code. A [`Worker`](crate::Worker) takes them together with the route for those that call
/// a model; an [`LlmManager`](crate::LlmManager) builds that route from its settings.
#[derive(Clone, Default)]
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

impl fmt::Debug for JobKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.calls.iter().map(|(kind, _)| kind);
        let handlers = self.handlers.iter().map(|(kind, _)| kind);
        f.debug_list().entries(calls.chain(handlers)).finish()
    }
}
