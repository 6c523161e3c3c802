//! Messages at the end of a worker about batches that continue without it, and about jobs that are not sent in batches.

use std::collections::{BTreeMap, HashMap, HashSet};

use batchwright::batch::BatchInfo;
use batchwright::queue::{EMBEDDING_KIND, ProcessState};
use batchwright::{Error, JobQueue, LlmManager, ProcessId, Strategy};

use crate::args::work::WorkArgs;
use crate::batches;
use crate::format::count;
use crate::queue::queue_flags;
use crate::run_process::{self, id_for_command};

/// The batches without a worker after a worker has ended.
pub struct Remaining {
    batches: Vec<BatchInfo>,
    /// Lines about processes that belong to runs.
    run_lines: Vec<String>,
    /// The commands of those runs.
    run_commands: HashMap<ProcessId, String>,
    /// The flags that name this queue in a command, each with a space before it; empty for the default queue.
    queue_flags: String,
}

impl Remaining {
    pub fn of(args: &WorkArgs, only: &[ProcessId], queue: &JobQueue) -> Result<Self, Error> {
        let taken = |id: &ProcessId| only.is_empty() || only.contains(id);
        let mut processes = queue.open_processes()?;
        processes.retain(|process| taken(&process.process_id));
        let run_lines = processes.iter().filter_map(run_process::line).collect();
        let run_command = |process: &ProcessState| {
            Some((
                process.process_id,
                run_process::collect_command(&process.info)?,
            ))
        };
        let run_commands = processes.iter().filter_map(run_command).collect();
        let mut batches = Vec::new();
        match only {
            [] => batches = queue.batches(None)?,
            // Including those of child jobs.
            only => {
                for id in only {
                    batches.extend(queue.batches(Some(*id))?);
                }
            }
        }
        let mut seen = HashSet::new();
        batches.retain(|batch| !batch.attended && seen.insert(batch.label.clone()));
        let worker = &args.worker;
        let (folder, file) = (worker.data_dir.as_deref(), args.file.queue.as_deref());
        Ok(Self {
            batches,
            run_lines,
            run_commands,
            queue_flags: queue_flags(folder, file, &worker.store),
        })
    }

    /// True if there are batches without a worker: a worker that waits for all batches could not end them.
    pub fn has_batches(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Lines about the number of batches at each provider, how to collect them, and what batches on hold need.
    /// `waited`: the worker waited for all batches, so the remaining ones were created with other keys.
    pub fn lines(&self, waited: bool) -> Vec<String> {
        let batches = self.batches.iter();
        let (held, others): (Vec<_>, Vec<_>) = batches.partition(|batch| batch.state == "held");
        let (missing, others): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|batch| batch.uncollected.is_some());
        let (submitted, unsubmitted): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|batch| batch.remote_id.is_some());
        let mut lines = self.submitted(&submitted, waited);
        lines.extend(self.run_lines.iter().cloned());
        lines.extend(unsubmitted.iter().map(|batch| {
            let (provider, total) = (&batch.provider, count(batch.total));
            let who = match self.run_command(batch) {
                Some(_) => "its run's own command (see above)".to_owned(),
                None => self.command("work --strategy batch"),
            };
            format!(
                "a batch of {total} requests is not submitted to {provider} yet; {who} resumes it"
            )
        }));
        lines.extend(missing.iter().map(|batch| batches::line(batch)));
        if let Some(first) = missing.first() {
            let alike = |batch: &&BatchInfo| batch.process_id == first.process_id;
            let id = first.process_id.filter(|_| missing.iter().all(alike));
            let back = self.run_command(first).map(String::as_str);
            let id = id_for_command(id.as_slice());
            lines.push(batches::missing_advice(&id, back, |words| {
                self.command(words)
            }));
        }
        lines.extend(held.iter().map(|batch| {
            let why = batch
                .problem
                .as_deref()
                .unwrap_or("it may or may not exist");
            format!("held: {} requests: {why}", count(batch.total))
        }));
        lines
    }

    /// One line per provider about its batches that continue there, and how to collect or cancel them.
    fn submitted(&self, submitted: &[&BatchInfo], waited: bool) -> Vec<String> {
        let mut at: BTreeMap<(&str, bool), (u64, u64)> = BTreeMap::new();
        for batch in submitted {
            let sum = at
                .entry((&batch.provider, self.run_command(batch).is_some()))
                .or_default();
            (sum.0, sum.1) = (sum.0 + 1, sum.1 + batch.total);
        }
        let ids = submitted.iter().filter_map(|batch| batch.process_id);
        let mut ids: Vec<_> = ids.collect();
        ids.dedup();
        let cancel = self.command(&format!("cancel {}", id_for_command(&ids)));
        let collector = |of_run, words| {
            if of_run {
                "their run's own command (see below)".to_owned()
            } else {
                self.command(words)
            }
        };
        let line = |((provider, of_run), (batches, requests))| {
            let (s, on) = match batches {
                1 => ("", "goes"),
                _ => ("es", "go"),
            };
            let (batches, requests) = (count(batches), count(requests));
            if waited {
                let who = collector(of_run, "work");
                return format!(
                    "batches at {provider} that were created with another key or address: {batches}, \
                     with {requests} requests; {who} with that key and address collects them"
                );
            }
            let who = collector(of_run, "work --strategy batch");
            format!(
                "{batches} batch{s} ({requests} requests) {on} on at {provider}; {who} collects them, \
                 {cancel} cancels them"
            )
        };
        at.into_iter().map(line).collect()
    }

    fn run_command(&self, batch: &BatchInfo) -> Option<&String> {
        self.run_commands.get(&batch.process_id?)
    }

    /// A command on this queue, in backquotes.
    fn command(&self, words: &str) -> String {
        format!("`batchwright {words}{}`", self.queue_flags)
    }
}

/// Reports once that embeddings are not made in batches.
#[derive(Default)]
pub struct EmbeddingsNote {
    noted_embeddings: bool,
    noted_price: bool,
}

impl EmbeddingsNote {
    pub fn update(&mut self, manager: &LlmManager, queue: &JobQueue, say: &dyn Fn(String)) {
        if manager.effective_strategy().strategy != Strategy::Batch {
            return self.price(queue, say);
        }
        if self.noted_embeddings {
            return;
        }
        // The worker itself reports a queue that cannot be read.
        let waiting = queue.waiting(EMBEDDING_KIND).unwrap_or(0);
        if waiting > 0 {
            self.noted_embeddings = true;
            let waiting = count(waiting);
            say(format!(
                "{waiting} embeddings wait: they are not made in batches, but by individual calls"
            ));
        }
    }

    /// Reports once that requests which batches left unanswered are called at the full price.
    fn price(&mut self, queue: &JobQueue, say: &dyn Fn(String)) {
        let is_open = queue.batches(None).is_ok_and(|batches| !batches.is_empty());
        if is_open && !self.noted_price {
            self.noted_price = true;
            say(
                "strategy sync: batches are collected, and their unanswered requests are \
                 sent as calls, at the full price; to use only batches: --strategy batch"
                    .to_owned(),
            );
        }
    }
}
