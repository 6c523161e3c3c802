//! A provider behind a network: one call from a request to its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::base::{Context, Error, ErrorKind};
use crate::engine::limiter::QuotaKey;
use crate::llm::client::LlmClient;
use crate::llm::native::Native;
use crate::llm::pack::PackLimits;
use crate::llm::params::RequestTask;
use crate::llm::prompt_cache::LEAST_TOKENS;
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::{HttpReply, HttpRequest, ReplyShare, Transport};

use super::access::{Access, ModelChoice};
use super::attached;
use super::dialect::{Call, decode, encode, succeeded};
use super::embed;
use super::fields::reply_json;
use super::speech;
use super::stream;
use super::vendor::{Dialect, Vendor};

/// The most bytes that are read of a reply, where nothing is set.
pub(super) const MAX_REPLY: u64 = 16 << 20;
/// The same of one with vectors or speech: a call may make thousands of vectors, and 4096 characters last a quarter of an
/// hour where they are read slowly.
const MAX_LARGE: u64 = 64 << 20;

/// Smaller prompts fit into every context.
const SMALL: u64 = 4096;
/// No text has more bytes for a token.
const MOST_BYTES_PER_TOKEN: u64 = 10;

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
    /// Set when a reply was a stream, which no request asked for.
    pub streams: AtomicBool,
}

impl LlmClient for Remote {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        if request.task == RequestTask::Speech {
            return self.speak(request, ctx);
        }
        let memory = ReplyShare::of_process();
        let reply = {
            let (mut call, _held) = self.call(request, ctx)?;
            let is_free = |native: &Native| !native.body().contains_key("stream");
            if self.streams.load(Relaxed) && request.native.as_deref().is_none_or(is_free) {
                call.body.truncate(call.body.len() - 1);
                call.body.extend_from_slice(b",\"stream\":false}");
            }
            let model = self.model.of_request(request);
            self.send(&call, model, MAX_REPLY, &memory, ctx)?
        };
        if stream::is_stream(&reply.body)
            && self.vendor.dialect != Dialect::Gemini
            && !self.streams.swap(true, Relaxed)
        {
            log::warn!(
                "{} sends its answers as streams of events, so each request says `\"stream\": false` from now on",
                self.vendor.name
            );
        }
        match decode(self.vendor, &reply, request.unchecked) {
            Ok(mut response) => {
                if request.keep_reply {
                    let whole = |text: &str| serde_json::from_str(text).map(RawJson::of);
                    response.details_mut().reply = Some(reply_json(&reply.body, whole));
                }
                let tokens = response.usage.map_or(0, |usage| usage.input_tokens);
                if let Some(cut) = self.cut_warning(&[request], tokens) {
                    response.warn(&cut);
                }
                self.access.remove_keys(&mut response);
                Ok(response)
            }
            Err(error) => Err(self.access.explained(error)),
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
            self.access.explained(error)
        })?;
        // Each vector has an estimated part of the tokens, so only their sum tells whether a text was cut.
        let read = vectors.iter().flatten().filter_map(|vector| vector.usage);
        let tokens = read.map(|usage| usage.input_tokens).sum();
        let cut = self.cut_warning(requests, tokens);
        let cleaned = vectors.into_iter().map(|vector| {
            let mut vector = vector.map_err(|error| self.access.explained(error))?;
            if let Some(cut) = &cut {
                vector.warn(cut);
            }
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
        sound.map_err(|error| self.access.explained(error))
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
        let reply = reply.map_err(|error| self.access.explained(error))?;
        if let Some(why) = self.access.redirect(self.vendor, &reply)
            && let Err(error) = succeeded(self.vendor, &reply)
        {
            return Err(self.access.explained(error.reworded(why)));
        }
        Ok(reply)
    }

    /// The warning for a prompt that was cut. Ollama cuts a prompt that exceeds its context without an error, but reports
    /// how many tokens it read.
    fn cut_warning(&self, requests: &[&Request], tokens: u64) -> Option<String> {
        let bytes = requests
            .iter()
            .map(|request| request.text_bytes() as u64)
            .sum::<u64>();
        let is_alone = requests.len() == 1;
        // A count of 0 means that the server does not count.
        let is_told = self.vendor.may_load && bytes >= SMALL && tokens > 0;
        // Ollama puts a few tokens of its own before a prompt that fills its context.
        let fills_window = is_alone && (tokens & !15).is_power_of_two() && bytes / 6 > tokens;
        let is_cut = is_told && (bytes / MOST_BYTES_PER_TOKEN > tokens || fills_window);
        let (what, cut) = if is_alone {
            ("a prompt".to_owned(), "it")
        } else {
            (format!("{} texts", requests.len()), "one of them")
        };
        is_cut.then(|| {
            format!(
                "the server read {tokens} tokens of {what} of {bytes} bytes: {cut} was probably cut to the server's context"
            )
        })
    }
}
