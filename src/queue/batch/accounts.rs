//! The accounts of batches: their clients, and their pauses.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::base::{Error, ErrorKind, Time};
use crate::llm::batch::{BatchAccount, BatchClient};

use super::context::BatchControl;
use super::machine::{Facts, is_cut_off};

/// The accounts of a worker's batches.
#[derive(Default)]
pub(super) struct Accounts {
    clients: HashMap<BatchAccount, Arc<dyn BatchClient>>,
    pauses: HashMap<BatchAccount, Pause>,
    /// Accounts that have no room for a new batch: until when, and why.
    holds: HashMap<BatchAccount, (Time, String)>,
    /// Accounts whose server has replied, with any status.
    reached: HashSet<BatchAccount>,
}

/// A pause of an account whose failure affects all its batches.
struct Pause {
    until: Time,
    /// Consecutive pauses.
    times: u32,
}

impl Accounts {
    /// The client for batches of an account: the one that created them, or one of the same address with another
    /// credential.
    pub(super) fn client(
        &mut self,
        control: &BatchControl,
        account: &BatchAccount,
    ) -> Option<Arc<dyn BatchClient>> {
        if let Some(client) = self.clients.get(account) {
            return Some(client.clone());
        }
        let current = control.client();
        let current = current.filter(|client| client.account().is_at_the_same_address(account));
        if let Some(own) = current.clone().filter(|own| own.account() == *account) {
            self.add(account.clone(), own.clone());
            return Some(own);
        }
        let clients = control.clients();
        let client = clients
            .and_then(|clients| clients(account))
            .filter(|client| client.account().is_at_the_same_address(account))
            .or(current)?;
        if client.account() == *account {
            self.add(account.clone(), client.clone());
        }
        Some(client)
    }

    pub(super) fn add(&mut self, account: BatchAccount, client: Arc<dyn BatchClient>) {
        self.clients.insert(account, client);
    }

    /// End of the pause of an account.
    pub(super) fn paused_until(&self, account: &BatchAccount) -> Option<Time> {
        self.pauses.get(account).map(|pause| pause.until)
    }

    /// Pauses an account, longer each time.
    pub(super) fn pause(&mut self, account: BatchAccount, error: &Error, facts: &Facts, now: Time) {
        let pause = self.pauses.entry(account).or_insert(Pause {
            until: Time::ZERO,
            times: 0,
        });
        if pause.until <= now {
            pause.times += 1;
        }
        let wait = facts.after_failures(pause.times, error.retry_after());
        pause.until = now.after(wait);
    }

    /// Forms no batch of an account before this time.
    pub(super) fn hold(&mut self, account: BatchAccount, until: Time, why: String) {
        let known = self.holds.insert(account, (until, why.clone()));
        if known.is_none_or(|(_, known)| known != why) {
            log::warn!("{why}");
        }
    }

    /// Time before which no batch of an account is formed.
    pub(super) fn held_until(&self, account: &BatchAccount) -> Option<Time> {
        self.holds.get(account).map(|(until, _)| *until)
    }

    /// Why an account has no room for a new batch now.
    pub(super) fn held(&self, now: Time) -> Option<&str> {
        let mut held = self.holds.values().filter(|(until, _)| *until > now);
        held.next().map(|(_, why)| &**why)
    }

    /// Records the outcome of a call, for [`is_reached`](Self::is_reached).
    pub(super) fn note_call(&mut self, account: &BatchAccount, error: Option<&Error>) {
        if error.is_none_or(|error| error.kind() != ErrorKind::Cancelled && !is_cut_off(error)) {
            self.reached.insert(account.clone());
        }
    }

    /// Whether the server of an account has ever replied.
    pub(super) fn is_reached(&self, account: &BatchAccount) -> bool {
        self.reached.contains(account)
    }

    /// Ends the pause of an account.
    pub(super) fn resume(&mut self, account: &BatchAccount) {
        self.pauses.remove(account);
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::examples::{facts, record, states};
    use super::*;

    #[test]
    fn each_further_pause_of_an_account_is_longer_and_failures_within_one_count_once() {
        let facts = Facts {
            jitter: 0.0,
            ..facts(true, None, false)
        };
        let account = record(states().remove(0)).account;
        let (mut accounts, mut now) = (Accounts::default(), Time::ZERO);
        let mut waits = Vec::new();
        for _ in 0..3 {
            for _ in 0..4 {
                let full = Error::new(ErrorKind::Quota, "full");
                accounts.pause(account.clone(), &full, &facts, now);
            }
            let until = accounts.paused_until(&account).unwrap();
            waits.push(until.since(now));
            now = until;
        }
        assert_eq!([waits[1], waits[2]], [2 * waits[0], 4 * waits[0]]);
    }
}
