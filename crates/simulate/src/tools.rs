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
    /// The provider is to search the web itself.
    pub(super) search: bool,
    /// Whether the last message is the result of a call.
    pub(super) answered: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) parameters: Value,
    /// Whether it accepts a text instead of arguments.
    pub(super) custom: bool,
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
    pub(super) custom: bool,
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
            arguments: if function.custom {
                text.into()
            } else {
                Shape::Schema(function.parameters.clone()).instance(text)
            },
            custom: function.custom,
        };
        functions.map(call).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.functions.iter().any(|function| function.name == name)
    }
}
