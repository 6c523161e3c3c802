//! Clients for the accounts that batches were made with.

use std::sync::Arc;
use std::time::Duration;

use crate::llm::batch::{BatchAccount, BatchClient};
use crate::llm::providers::batch::BatchApi;
use crate::llm::providers::config::LlmConfig;

/// Finds the client of an account with which batches were created: the client of `own`, or of the account's
/// provider at the address and with the API key that the environment has now, if address and key belong to the
/// account. An API key is never sent to an address only because a batch was created there. `idle` as in
/// [`LlmConfig::transfer_idle_timeout`].
pub fn clients_by_account(
    own: Option<LlmConfig>,
    idle: Duration,
) -> impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + use<> {
    move |account| {
        let mut clients = present_clients(own.clone(), account, idle);
        let client = clients.find(|client| client.account() == *account)?;
        Some(Arc::new(client))
    }
}

/// Finds the client of an account as [`clients_by_account`] does. If the account's API key is not available, uses
/// the present key for the same provider and address. For `JobQueue::adopt_batches`, after a key was rotated.
pub fn clients_by_address(
    own: Option<LlmConfig>,
    idle: Duration,
) -> impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + use<> {
    move |account| {
        let there = |client: &BatchApi| client.account().is_at_the_same_address(account);
        let mut clients: Vec<BatchApi> = present_clients(own.clone(), account, idle)
            .filter(there)
            .collect();
        let same = clients
            .iter()
            .position(|client| client.account() == *account);
        (!clients.is_empty()).then(|| {
            let client: Arc<dyn BatchClient> = Arc::new(clients.swap_remove(same.unwrap_or(0)));
            client
        })
    }
}

/// The clients that `own` and the environment have now for the provider of an account.
fn present_clients(
    own: Option<LlmConfig>,
    account: &BatchAccount,
    idle: Duration,
) -> impl Iterator<Item = BatchApi> + use<> {
    let configs = [own, Some(LlmConfig::new(&account.provider))];
    let configs = configs.into_iter().flatten();
    configs.filter_map(move |config| config.transfer_idle_timeout(idle).batch_client().ok())
}
