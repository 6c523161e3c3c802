//! What stands in for the queue in a program that was built without one: nothing ever goes through it.

use std::sync::Arc;

use batchwright::{
    Context, FileRunError, FileRunOptions, Limits, Output, Plan, Prompts, RetryPolicy, Settings,
    Strategy, sidecar_path,
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
    /// Refuses an output of which something is on a queue: it would be bought again.
    pub fn find(args: &RunArgs, _: &Way) -> Result<Option<Self>, Refusal> {
        let Some(output) = &args.output else {
            return Ok(None);
        };
        // Without its folder there is neither; whoever opens the output says so.
        let Ok(sidecar) = sidecar_path(output) else {
            return Ok(None);
        };
        match sidecar.exists() {
            false => Ok(None),
            true => Err(Refusal::usage(format!(
                "{} says that items of this output are on a queue, for which this program was built \
                 without what it takes: run it with one that has the queue",
                sidecar.display()
            ))),
        }
    }

    pub fn found(&self) -> &[String] {
        match *self {}
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

    pub fn lines(
        &self,
        _: &Chosen,
        _: &Settings,
        _: &Plan,
        _: Strategy,
    ) -> Result<Vec<String>, Refusal> {
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
