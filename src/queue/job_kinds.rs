//! Kinds of jobs with the code that carries them out, to be given to a worker together.

use std::fmt;

use super::handler::Handler;
use super::model_call::ModelCall;

/// Kinds of jobs, each with the code that carries it out. A [`Worker`](crate::Worker) takes them with the route of those
/// that ask a model, an [`LlmManager`](crate::LlmManager) makes that route by its settings.
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

    /// Adds a kind of jobs of which each is one call of a model.
    pub fn model_call(mut self, kind: impl Into<String>, call: ModelCall) -> Self {
        self.calls.push((kind.into(), call));
        self
    }

    /// Adds a kind of jobs that a handler carries out.
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
