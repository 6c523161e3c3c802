//! The tools that a model may call, and which of them it calls: each once if the last message is from the user; it
//! answers the results of calls with a text.

use serde_json::Value;

use super::shape::Shape;

/// The tools that may be called, and how many.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tools {
    pub(super) functions: Vec<Function>,
    pub(super) choice: Choice,
    /// One at a time.
    pub(super) single: bool,
    /// The calls without a result yet: their ids, or the names of their functions.
    pub(super) open: Vec<String>,
    /// Whether the last message is the result of a call.
    pub(super) answered: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) parameters: Value,
}

#[derive(Debug, Default, PartialEq)]
pub(super) enum Choice {
    #[default]
    Auto,
    Never,
    Any,
    One(String),
}

/// A tool that is called.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: Value,
}

impl Tools {
    /// The calls that answer `text`.
    pub(super) fn calls(&self, text: &str) -> Vec<Call> {
        let called = |function: &&Function| match &self.choice {
            Choice::Never => false,
            Choice::Auto => !self.answered,
            Choice::Any => true,
            Choice::One(name) => function.name == *name,
        };
        let most = if self.single { 1 } else { usize::MAX };
        let functions = self.functions.iter().filter(called).take(most);
        let call = |function: &Function| Call {
            name: function.name.clone(),
            arguments: Shape::Schema(function.parameters.clone()).instance(text),
        };
        functions.map(call).collect()
    }
}
