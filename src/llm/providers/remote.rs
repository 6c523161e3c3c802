//! A provider behind a network: one call from a request to its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::base::{Context, Error, ErrorKind};
use crate::engine::limiter::QuotaKey;
use crate::llm::client::LlmClient;
use crate::llm::pack::PackLimits;
use crate::llm::params::RequestTask;
use crate::llm::prompt_cache::LEAST_TOKENS;
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::{HttpReply, HttpRequest, ReplyShare, Transport};

use super::access::{Access, ModelChoice, mark_loading};
use super::attached;
use super::dialect::{Call, decode, encode};
use super::embed;
use super::speech;
use super::vendor::Vendor;

/// The most bytes that are read of a reply, where nothing is set.
pub(super) const MAX_REPLY: u64 = 16 << 20;
/// The same of one with vectors or speech: a call may make thousands of vectors, and 4096 characters last a quarter of an
/// hour where they are read slowly.
const MAX_LARGE: u64 = 64 << 20;

pub(super) struct Remote {
    pub vendor: &'static Vendor,
    pub transport: Arc<dyn Transport>,
    pub access: Access,
    pub model: ModelChoice,
    pub concurrency: usize,
    pub timeout: Duration,
    pub max_reply: Option<u64>,
    /// Set when a reply did not say which vector is which text's: each text then needs a call of its own.
    pub unordered: AtomicBool,
}

impl LlmClient for Remote {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        if request.task == RequestTask::Speech {
            return self.speak(request, ctx);
        }
        let memory = ReplyShare::of_process();
        let reply = {
            let (call, _held) = self.call(request, ctx)?;
            let model = self.model.of_request(request);
            self.send(&call, model, MAX_REPLY, &memory, ctx)?
        };
        match decode(self.vendor, &reply, request.unchecked) {
            Ok(mut response) => {
                if request.keep_reply {
                    let body = String::from_utf8_lossy(&reply.body);
                    response.details_mut().reply = Some(RawJson::new(&body));
                }
                self.access.remove_keys(&mut response);
                Ok(response)
            }
            Err(error) => Err(self.access.redacted(self.explained(error))),
        }
    }

    fn embed(
        &self,
        requests: &[&Request],
        ctx: &Context,
    ) -> Result<Vec<Result<Response, Error>>, Error> {
        let model = requests
            .first()
            .and_then(|first| self.model.of_request(first));
        let call = embed::encode(self.vendor, requests, model)?;
        let memory = ReplyShare::of_process();
        let reply = self.send(&call, model, MAX_LARGE, &memory, ctx)?;
        let failed = |error| self.access.redacted(self.explained(error));
        let vectors = embed::decode(self.vendor, &reply, requests).map_err(|error| {
            if error.kind() == ErrorKind::Malformed
                && requests.len() > 1
                && embed::is_unordered(&reply.body, requests.len())
                && !self.unordered.swap(true, Relaxed)
            {
                log::warn!(
                    "{} does not say which vector belongs to which text, so each text has its own call from now on",
                    self.vendor.name
                );
            }
            failed(error)
        })?;
        let cleaned = vectors.into_iter().map(|vector| {
            let mut vector = vector.map_err(failed)?;
            self.access.remove_keys(&mut vector);
            Ok(vector)
        });
        Ok(cleaned.collect())
    }

    fn pack_limits(&self) -> PackLimits {
        match self.vendor.embeds {
            Some(limits) if !self.unordered.load(Relaxed) => limits,
            _ => PackLimits::ONE,
        }
    }

    fn quota(&self, request: &Request) -> QuotaKey {
        let model = self.model.of_request(request).unwrap_or("");
        let access = &self.access;
        let (url, account) = (&access.base_url, &access.account);
        QuotaKey::new(&[self.vendor.name, url, account, model])
    }

    fn provider(&self) -> &str {
        self.vendor.name
    }

    fn model_for(&self, request: &Request) -> Option<String> {
        self.model.of_request(request).map(str::to_owned)
    }

    fn can(&self, request: &Request) -> bool {
        match request.task {
            RequestTask::Complete => true,
            RequestTask::Embed => self.vendor.embeds.is_some(),
            RequestTask::Speech => self.vendor.speaks,
        }
    }

    fn caches_prompts(&self, _: &Request, tokens: u32) -> bool {
        self.vendor.prompt_cache.is_some() && tokens >= LEAST_TOKENS
    }

    fn concurrency(&self) -> Option<usize> {
        Some(self.concurrency)
    }

    fn address(&self) -> &str {
        &self.access.base_url
    }
}

impl Remote {
    fn speak(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        let model = self.model.of_request(request);
        let call = speech::encode(self.vendor, request, model)?;
        let memory = ReplyShare::of_process();
        let reply = self.send(&call, model, MAX_LARGE, &memory, ctx)?;
        let sound = speech::decode(self.vendor, reply, request);
        sound.map_err(|error| self.access.redacted(self.explained(error)))
    }

    /// The call for a prompt, its files read, with the memory that they take meanwhile.
    fn call(&self, request: &Request, ctx: &Context) -> Result<(Call, Option<ReplyShare>), Error> {
        let model = self.model.of_request(request);
        let Some(bytes) = attached::memory(request)? else {
            return Ok((encode(self.vendor, request, model)?, None));
        };
        let memory = ReplyShare::of_requests();
        memory.take(bytes, ctx)?;
        let call = encode(self.vendor, &attached::filled(self.vendor, request)?, model)?;
        memory.keep(call.body.len() as u64);
        Ok((call, Some(memory)))
    }

    /// Sends a call, and reads at most `most` bytes of its reply unless another number is set.
    fn send(
        &self,
        call: &Call,
        model: Option<&str>,
        most: u64,
        memory: &ReplyShare,
        ctx: &Context,
    ) -> Result<HttpReply, Error> {
        let url = self.access.call_url(&call.path, model.unwrap_or_default());
        let request = HttpRequest {
            url: &url,
            headers: &self.access.headers,
            body: Some(&call.body),
            timeout: self.timeout,
            reply_limit: self.max_reply.unwrap_or(most),
            memory,
        };
        let reply = self.transport.send(&request, ctx);
        reply.map_err(|error| self.access.redacted(error))
    }

    /// With what only the client knows of a failure.
    fn explained(&self, error: Error) -> Error {
        mark_loading(self.vendor, self.access.explained(error))
    }
}
