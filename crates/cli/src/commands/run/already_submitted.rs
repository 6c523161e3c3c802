//! Messages at the start of a run about items that an earlier run has submitted in batches.

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::ProcessId;
use batchwright::batch::{BatchAccount, BatchInfo};
use batchwright::files::RunPlan;

use crate::format::{count, span};

/// The batches of earlier runs, and the present provider.
pub struct AlreadySubmitted<'a> {
    pub batches: &'a [BatchInfo],
    pub process: ProcessId,
    /// The name of the present provider, and its account if it supports batches.
    pub asked: (&'a str, Option<BatchAccount>),
    /// Items at providers.
    pub at_provider: u64,
    pub plan: &'a RunPlan,
    /// The flag that names this queue in a command, with a space before it; empty for the default queue.
    pub queue_flag: &'a str,
}

impl AlreadySubmitted<'_> {
    pub fn lines(&self) -> Vec<String> {
        let mut places: BTreeMap<(&str, bool), Vec<&BatchInfo>> = BTreeMap::new();
        let (unsent, sent): (Vec<&BatchInfo>, Vec<_>) =
            self.batches.iter().partition(|batch| batch.unsent);
        for batch in sent {
            let place = (batch.provider.as_str(), self.is_of_another_account(batch));
            places.entry(place).or_default().push(batch);
        }
        let mut lines: Vec<String> = places
            .iter()
            .map(|((provider, others), batches)| self.line(provider, *others, batches))
            .collect();
        let waiting: u64 = unsent.iter().map(|batch| batch.total).sum();
        if waiting > 0 {
            lines.push(format!(
                "{} items of an earlier run wait here: nothing of them was handed over, and what this input asks for \
                 goes to {}",
                count(waiting),
                self.asked.0
            ));
        }
        // Results that are to be collected may belong to the input or not; they are not counted as stale.
        let asked = self.plan.under_way + self.plan.to_collect;
        let stale = self.at_provider.saturating_sub(asked);
        let stale = stale.min(self.at_provider.saturating_sub(waiting));
        if stale > 0 {
            let (id, dir) = (self.process, self.queue_flag);
            let others = match asked {
                0 => "",
                _ => " (and all else in its batches, which this command sends again)",
            };
            lines.push(format!(
                "{} items of an earlier form are in a batch and will be paid for, and this input does not \
                 ask for their answers: to stop them{others}: batchwright cancel {id}{dir}",
                count(stale)
            ));
        }
        let elsewhere = places.keys().find(|(_, others)| *others);
        if let Some((provider, _)) = elsewhere {
            let (asked, id, dir) = (self.asked.0, self.process, self.queue_flag);
            lines.push(format!(
                "to wait for them: this command, with the key of {provider} that made them (the earlier one, if it \
                 was changed since); to send them to {asked} instead: batchwright cancel {id}{dir}, then this command again"
            ));
        }
        lines
    }

    /// Whether the batch is at another provider or account than the present one.
    fn is_of_another_account(&self, batch: &BatchInfo) -> bool {
        match &self.asked {
            (_, Some(account)) => batch.account() != *account,
            (name, None) => batch.provider != *name,
        }
    }

    fn line(&self, provider: &str, others: bool, batches: &[&BatchInfo]) -> String {
        let items: u64 = batches.iter().map(|batch| batch.total).sum();
        let named = batches.iter().take(3).map(|batch| named(batch));
        let mut named: Vec<String> = named.collect();
        if batches.len() > 3 {
            named.push(format!("{} more", batches.len() - 3));
        }
        let how_many = match batches.len() {
            1 => "a batch".to_owned(),
            n => format!("{n} batches"),
        };
        let (asked, own) = &self.asked;
        let account = match own {
            Some(own) if others && provider == *asked => match batches {
                [first, ..] if first.base_url != own.base_url => {
                    format!(", {}", batchwright::provider::redacted_url(&first.base_url))
                }
                _ => ", made with another key".to_owned(),
            },
            _ => String::new(),
        };
        let now = if others && provider != *asked {
            format!("; prompts named now go to {asked}")
        } else {
            String::new()
        };
        format!(
            "{} items are in {how_many} at {provider}{account} ({}){now}",
            count(items),
            named.join("; ")
        )
    }
}

fn named(batch: &BatchInfo) -> String {
    let age = match batch.age_seconds {
        0 => "0 s old".to_owned(),
        seconds => format!("{} old", span(Duration::from_secs(seconds))),
    };
    let model = batch.model.as_deref();
    let model = model.map_or_else(String::new, |model| format!(", model {model}"));
    match &batch.remote_id {
        Some(id) if batch.cancel_asked => format!("{id}{model}, {age}, being cancelled"),
        Some(id) => format!("{id}{model}, {age}"),
        None => format!("{}{model}, {age}", batch.state),
    }
}
