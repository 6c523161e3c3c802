//! The accounts that batches belong to: who looks after them, and which of them are left alone for a while.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::error::Error;
use crate::llm::batch::{BatchAccount, BatchClient};

use super::control::BatchControl;
use super::settings::BatchSettings;

/// The accounts of a worker's batches.
#[derive(Default)]
pub(super) struct Accounts {
    clients: HashMap<BatchAccount, Arc<dyn BatchClient>>,
    pauses: HashMap<BatchAccount, Pause>,
}

/// An account that is left alone: what has failed there fails for all of its batches.
struct Pause {
    until: Time,
    /// Pauses in a row.
    times: u32,
}

impl Accounts {
    /// The client that looks after batches of an account, if its credential is here.
    pub(super) fn client(
        &mut self,
        control: &BatchControl,
        account: &BatchAccount,
    ) -> Option<Arc<dyn BatchClient>> {
        if let Some(client) = self.clients.get(account) {
            return Some(client.clone());
        }
        let current = control.client();
        let current = current.filter(|client| client.account() == *account);
        let client = current.or_else(|| {
            let clients = control.clients();
            clients.and_then(|clients| clients(account))
        })?;
        self.add(account.clone(), client.clone());
        Some(client)
    }

    pub(super) fn add(&mut self, account: BatchAccount, client: Arc<dyn BatchClient>) {
        self.clients.insert(account, client);
    }

    /// Until when an account is left alone.
    pub(super) fn paused_until(&self, account: &BatchAccount) -> Option<Time> {
        self.pauses.get(account).map(|pause| pause.until)
    }

    /// Leaves an account alone, for longer each time.
    pub(super) fn pause(
        &mut self,
        account: BatchAccount,
        error: &Error,
        (settings, jitter): (&BatchSettings, f64),
        now: Time,
    ) {
        let pause = self.pauses.entry(account).or_insert(Pause {
            until: Time::ZERO,
            times: 0,
        });
        if pause.until <= now {
            pause.times += 1;
        }
        let wait = settings.after_failures(pause.times, error.retry_after(), jitter);
        pause.until = now.after(wait);
    }

    /// The account answers.
    pub(super) fn resume(&mut self, account: &BatchAccount) {
        self.pauses.remove(account);
    }
}
