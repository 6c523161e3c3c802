//! The accounts that batches belong to: who looks after them, and which of them are left alone for a while.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{BatchAccount, BatchClient};

use super::control::BatchControl;
use super::machine::is_cut_off;
use super::settings::BatchSettings;

/// A server that is just being started is up by then, as for calls.
const NEVER_REACHED: Duration = Duration::from_secs(8);

/// The accounts of a worker's batches.
#[derive(Default)]
pub(super) struct Accounts {
    clients: HashMap<BatchAccount, Arc<dyn BatchClient>>,
    pauses: HashMap<BatchAccount, Pause>,
    /// Those where a server was there, whatever it said.
    reached: HashSet<BatchAccount>,
    /// Those where none ever was: since when it was tried, and what came of the last try.
    unreached: HashMap<BatchAccount, (Time, Error)>,
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

    /// Takes note of what came of a call, for [`never_reached`](Self::never_reached).
    pub(super) fn note_call(&mut self, account: &BatchAccount, error: Option<&Error>, now: Time) {
        match error {
            Some(error) if error.kind() == ErrorKind::Cancelled => {}
            Some(error) if is_cut_off(error) => {
                if !self.reached.contains(account) {
                    let unreached = self.unreached.entry(account.clone());
                    unreached.or_insert((now, error.clone())).1 = error.clone();
                }
            }
            _ => {
                self.unreached.remove(account);
                self.reached.insert(account.clone());
            }
        }
    }

    /// The accounts where no server was ever reached, with what came of the last try, and until when that is waited for.
    pub(super) fn never_reached(&self) -> impl Iterator<Item = (&BatchAccount, &Error, Time)> {
        let all = self.unreached.iter();
        all.map(|(account, (since, error))| (account, error, since.after(NEVER_REACHED)))
    }

    /// The account answers.
    pub(super) fn resume(&mut self, account: &BatchAccount) {
        self.pauses.remove(account);
    }
}
