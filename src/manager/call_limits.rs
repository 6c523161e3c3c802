//! The limits of calls that are known before the first one.

use crate::base::Error;
use crate::engine::limiter::reported_limits;
use crate::llm::client::LlmClient;
use crate::llm::request::Request;
use crate::money::duration::CallLimits;

use super::plan::ProviderPlan;

impl ProviderPlan {
    /// The limits of calls to the first provider, for requests that name this model: those of the settings, else those
    /// that the replies to earlier runs reported, if the [data folder](super::ProviderOptions::data_dir) has them. Makes no call.
    ///
    /// # Errors
    /// See [`client`](Self::client).
    pub fn call_limits(&self, model: Option<&str>) -> Result<CallLimits, Error> {
        let mut limits = self.calls.limits();
        if let Some(folder) = self.route_plan().shared_in {
            let request = Request {
                model: model.map(str::to_owned),
                ..Request::default()
            };
            let key = self.client()?.quota(&request);
            let [requests, tokens] = reported_limits(&folder, key);
            limits.requests_per_minute = limits.requests_per_minute.or(requests);
            limits.tokens_per_minute = limits.tokens_per_minute.or(tokens);
        }
        Ok(limits)
    }
}
