//! What stands in for the queue in a program that was built without one: nothing ever goes through it.

use std::sync::Arc;

use batchwright::{
    Context, FileRunError, FileRunOptions, Limits, Output, Plan, PromptSettings, Prompts,
    RetryPolicy, Settings, Strategy,
};

use super::args::RunArgs;
use super::display::Display;
use super::exit::{Exit, Refusal};
use super::provider::Chosen;
use super::signals::Signals;
use super::strategy::Way;
use super::summary::Setup;

pub enum Place {}

impl Place {
    pub fn find(_: &RunArgs, _: &Way) -> Result<Option<Self>, Refusal> {
        Ok(None)
    }

    pub fn prepare(
        &self,
        _: Prompts,
        _: Output,
        _: FileRunOptions,
    ) -> Result<Queued<'_>, FileRunError> {
        match *self {}
    }

    pub fn spool(&self, _: Prompts, _: &Context) -> Result<Option<Prompts>, Refusal> {
        match *self {}
    }

    pub fn holds_something(&self) -> Result<bool, Refusal> {
        match *self {}
    }

    pub fn line(&self, _: &Chosen, _: Strategy) -> String {
        match *self {}
    }
}

pub struct Queued<'p>(&'p Place);

impl Queued<'_> {
    pub fn plan(&self) -> &Plan {
        match *self.0 {}
    }
}

#[expect(dead_code, reason = "nobody ever looks at them")]
pub struct Crew<'a> {
    pub args: &'a RunArgs,
    pub settings: &'a Settings,
    pub chosen: Option<&'a Chosen>,
    pub limits: Limits,
    pub retry: RetryPolicy,
    pub setup: &'a Setup,
}

impl Crew<'_> {
    pub fn run(
        &self,
        queued: Queued<'_>,
        _: &Context,
        _: &Arc<Display>,
        _: &Signals,
    ) -> Result<Exit, Refusal> {
        match *queued.0 {}
    }
}
