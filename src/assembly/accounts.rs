//! Clients for the accounts that batches were made with.

use std::sync::Arc;

use crate::llm::batch::{BatchAccount, BatchClient};
use crate::llm::providers::batch::BatchApi;
use crate::llm::providers::config::LlmConfig;

/// Finds the client of an account with which batches were created: the client of `own`, or of the account's
/// provider at the address and with the API key that the environment has now. If that key differs from the one that
/// created the batches, the client of the same address is used: it collects the batches that the provider shows to it.
/// An API key is never sent to an address only because a batch was created there.
pub fn clients_by_account(
    own: Option<LlmConfig>,
) -> impl Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync + use<> {
    move |account| {
        let there = |client: &BatchApi| client.account().is_at_the_same_address(account);
        let clients = present_clients(own.clone(), account).filter(there);
        let client = clients.min_by_key(|client| client.account() != *account)?;
        Some(Arc::new(client))
    }
}

/// The clients that `own` and the environment have now for the provider of an account.
fn present_clients(
    own: Option<LlmConfig>,
    account: &BatchAccount,
) -> impl Iterator<Item = BatchApi> + use<> {
    let configs = [own, Some(LlmConfig::new(&account.provider))];
    let configs = configs.into_iter().flatten();
    configs.filter_map(|config| config.batch_client().ok())
}
