//! The data that `batchwright status` shows about a process.

use std::path::PathBuf;
use std::time::Duration;

use batchwright::batch::BatchInfo;
use batchwright::plan::EffectiveStrategy;
use batchwright::queue::ProcessState;
use batchwright::unstable::{Clock, SystemClock};
use batchwright::{ProcessId, Progress};
use serde_json::{Value, json};

use crate::args::shared::DataArgs;
use crate::command_line::quoted_path;
use crate::format::count;

/// A process and its rate.
pub struct Row {
    pub process: ProcessState,
    pub progress: Progress,
    pub batches: Vec<BatchInfo>,
    pub effective: EffectiveStrategy,
    /// The models that its jobs name, or that have answered them, if known.
    pub models: Vec<String>,
    /// The providers of its batches or answers, if known.
    pub providers: Vec<String>,
    /// The file of its queue, if it is not the queue in use.
    pub store: Option<PathBuf>,
}

impl Row {
    pub fn id(&self) -> ProcessId {
        self.process.process_id
    }

    /// A command on its queue, ready to be pasted into a shell.
    pub fn command(&self, data: &DataArgs, words: &str) -> String {
        match &self.store {
            Some(store) => format!("batchwright {words} --queue {}", quoted_path(store)),
            None => data.command(words),
        }
    }

    /// The known cost of its jobs; with a `+` if there are jobs of unknown cost.
    pub fn cost(&self) -> String {
        let spent = &self.process.spent;
        let more = if spent.unpriced > 0 { "+" } else { "" };
        let known = spent.cost_usd.map(|cost| format!("{cost}{more}"));
        known.unwrap_or_else(|| "-".to_owned())
    }

    /// Whether all of its jobs have ended.
    pub fn is_finished(&self) -> bool {
        self.process.is_finished()
    }

    pub fn json(&self) -> Value {
        let counts = &self.process.counts;
        let eta = self.progress.eta.map(|eta| eta.as_secs_f64().ceil() as u64);
        json!({
            "process_id": self.id(),
            "name": self.process.info.name,
            "input": self.process.info.input,
            "output": self.process.info.output,
            "command": self.process.info.command,
            "queue": self.store,
            "strategy": self.effective.strategy,
            "fallback_reason": self.effective.fallback_reason,
            "total": counts.total,
            "pending": counts.pending,
            "in_progress": counts.in_progress,
            "at_provider": counts.at_provider,
            "completed": counts.completed,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "eta_seconds": eta,
            "created_at": self.process.created_at,
            "age_seconds": self.age().as_secs(),
            "models": self.models,
            "providers": self.providers,
            "batches": self.batches,
            "sealed": self.process.sealed,
            "consumed": counts.consumed,
            "input_tokens": self.process.spent.input_tokens,
            "output_tokens": self.process.spent.output_tokens,
            "cost_usd": self.process.spent.cost_usd,
            "unpriced": self.process.spent.unpriced,
        })
    }

    /// Time since its first job was enqueued.
    pub fn age(&self) -> Duration {
        SystemClock.wall().since(self.process.created_at)
    }

    /// Its strategy; unknown for a process that has ended without batches.
    pub fn strategy(&self) -> String {
        if self.is_finished() && self.batches.is_empty() {
            "-".to_owned()
        } else {
            self.effective.strategy.to_string()
        }
    }

    pub fn name(&self) -> String {
        let name = self.process.info.name.clone();
        name.unwrap_or_else(|| "-".to_owned())
    }

    pub fn percent(&self) -> String {
        // Rounded down: all is done only at 100.
        let percent = self.progress.percent.unwrap_or(0.0);
        format!("{:.1} %", (percent * 10.0).floor() / 10.0)
    }

    pub fn remarks(&self) -> String {
        let mut remarks = Vec::new();
        if !self.process.sealed {
            remarks.push("unsealed".to_owned());
        }
        if self.process.cancelled {
            remarks.push("cancelled".to_owned());
        }
        let budget = self.process.budget.as_ref();
        if budget.is_some_and(|budget| budget.needed.is_some()) {
            remarks.push("paused by its budget".to_owned());
        }
        match self.process.counts.consumed {
            0 => {}
            taken => remarks.push(format!("{} results taken", count(taken))),
        }
        if self.is_finished() {
            remarks.push("finished".to_owned());
        }
        remarks.join(", ")
    }
}
