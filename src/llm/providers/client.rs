//! The client of any provider.

use crate::base::{Context, Error};
use crate::engine::limiter::QuotaKey;
use crate::engine::pack::PackLimits;
use crate::llm::client::LlmClient;
use crate::llm::request::Request;
use crate::llm::response::Response;

use super::extract::Extract;
use super::remote::Remote;

/// A provider's client.
#[derive(derive_more::Debug)]
#[debug("Client({:?})", self.provider())]
pub struct Client(pub(super) ProviderClient);

pub(super) enum ProviderClient {
    Remote(Box<Remote>),
    Extract(Extract),
}

impl Client {
    /// Calls in flight that suit the provider: the number in its settings, else 1 for a local
    /// server and 5 for the others.
    pub fn default_concurrency(&self) -> usize {
        self.concurrency().unwrap_or_default()
    }

    fn inner(&self) -> &dyn LlmClient {
        match &self.0 {
            ProviderClient::Remote(remote) => &**remote,
            ProviderClient::Extract(extract) => extract,
        }
    }
}

impl LlmClient for Client {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        self.inner().complete(request, ctx)
    }

    fn embed(
        &self,
        requests: &[&Request],
        ctx: &Context,
    ) -> Result<Vec<Result<Response, Error>>, Error> {
        self.inner().embed(requests, ctx)
    }

    fn pack_limits(&self) -> PackLimits {
        self.inner().pack_limits()
    }

    fn quota(&self, request: &Request) -> QuotaKey {
        self.inner().quota(request)
    }

    fn provider(&self) -> &str {
        self.inner().provider()
    }

    fn model_for(&self, request: &Request) -> Option<String> {
        self.inner().model_for(request)
    }

    fn can(&self, request: &Request) -> bool {
        self.inner().can(request)
    }

    fn caches_prompts(&self, request: &Request, tokens: u32) -> bool {
        self.inner().caches_prompts(request, tokens)
    }

    fn concurrency(&self) -> Option<usize> {
        self.inner().concurrency()
    }

    fn address(&self) -> &str {
        self.inner().address()
    }
}
