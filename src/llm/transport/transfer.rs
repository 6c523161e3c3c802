//! Exchanges whose bodies stream, for as long as bytes move.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use ureq::{AsSendBody, Body, SendBody, Timeout, http};

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::secret::redacted_url;

use super::client::{Head, HttpTransport};
use super::encoding::Encoding;
use super::exchange::{ERROR_LIMIT, HttpMethod, HttpReply, HttpTransfer, REPLY_LIMIT, unwrapped};
use super::timeouts::BEYOND;

const CHUNK_BYTES: usize = 64 * 1024;

impl HttpTransport {
    pub(super) fn stream(
        &self,
        transfer: HttpTransfer<'_>,
        ctx: &Context,
    ) -> Result<HttpReply, Error> {
        ctx.check()?;
        let (url, idle, reply) = (transfer.url, transfer.idle, transfer.reply);
        let patience = |of| match of {
            Timeout::PerRead | Timeout::PerWrite => idle,
            _ => reply,
        };
        let mut fault = None;
        let result = self.tracked(url, &patience, ctx, || {
            self.exchange_streaming(transfer, ctx, &mut fault)
        });
        match fault {
            Some(Fault::Source(error)) => {
                let why = format!("cannot read what is to be sent to {}", redacted_url(url));
                Err(Error::new(ErrorKind::Invalid, format!("{why}: {error}")))
            }
            Some(Fault::Sink(error)) => {
                let why = format!("cannot write what came from {}", redacted_url(url));
                let error = Error::new(ErrorKind::Invalid, format!("{why}: {error}"));
                Err(error.with_sent(Sent::Maybe))
            }
            // A socket that was shut down looks like the end of such a reply.
            None if ctx.is_aborted() && result.as_ref().is_ok_and(ends_with_connection) => {
                let ended = ctx.check().err().unwrap_or_else(Error::cancelled);
                Err(ended.with_sent(Sent::Maybe))
            }
            None => result,
        }
    }

    fn exchange_streaming(
        &self,
        transfer: HttpTransfer<'_>,
        ctx: &Context,
        fault: &mut Option<Fault>,
    ) -> Result<HttpReply, ureq::Error> {
        let method = match transfer.method {
            HttpMethod::Get => http::Method::GET,
            HttpMethod::Post => http::Method::POST,
            HttpMethod::Put => http::Method::PUT,
            HttpMethod::Delete => http::Method::DELETE,
        };
        let mut builder = http::Request::builder().method(method).uri(transfer.url);
        for (name, value) in transfer.headers {
            builder = builder.header(&**name, value);
        }
        let mut empty = io::empty();
        let (reader, left): (&mut dyn Read, u64) = match transfer.body {
            Some(body) => body,
            None => (&mut empty, 0),
        };
        let mut source = Source {
            reader,
            left,
            fault: None,
        };
        let limits = [transfer.idle, transfer.reply];
        let reply = match transfer.method {
            HttpMethod::Post | HttpMethod::Put => {
                let builder = builder.header(http::header::CONTENT_LENGTH, left);
                let body = SendBody::from_reader(&mut source);
                self.run(builder.body(body)?, limits, ctx)
            }
            HttpMethod::Get | HttpMethod::Delete => {
                self.run(builder.body(SendBody::none())?, limits, ctx)
            }
        };
        *fault = source.fault.map(Fault::Source);
        let (head, body) = reply?.into_parts();
        let is_success = head.status.is_success();
        let head = Head::of(head);
        let encoding = Encoding::of(&head.headers);
        let mut bytes = Vec::new();
        match transfer.into {
            Some(sink) if is_success => {
                let copied = match encoding {
                    Some(encoding) => copy(encoding.decoder(body.into_reader()), sink),
                    None => copy(body.into_reader(), sink),
                };
                *fault = copied?.map(Fault::Sink);
            }
            _ => {
                let limit = if is_success { REPLY_LIMIT } else { ERROR_LIMIT };
                let reader = body.into_with_config().limit(limit).reader();
                let mut reader = Prompt {
                    reader: reader.take(limit),
                    begun: Instant::now(),
                    longest: transfer.reply,
                };
                reader.read_to_end(&mut bytes).map_err(unwrapped)?;
                if let Some(encoding) = encoding
                    && let (decoded, true) = encoding.decoded(&bytes, limit)
                {
                    bytes = decoded;
                }
            }
        }
        Ok(HttpReply {
            status: head.status,
            headers: head.headers,
            body: bytes,
        })
    }

    fn run(
        &self,
        request: http::Request<impl AsSendBody>,
        [idle, reply]: [Duration; 2],
        ctx: &Context,
    ) -> Result<http::Response<Body>, ureq::Error> {
        let request = self.agent.configure_request(request);
        let request = request
            .timeout_per_call(ctx.remaining().map(|left| left.saturating_add(BEYOND)))
            .timeout_per_write(Some(idle))
            .timeout_per_read(Some(idle))
            .timeout_recv_response(Some(reply))
            .build();
        self.agent.run(request)
    }
}

/// A reply that is kept. Whoever waits for it has other things to do: it may not come drop by drop.
struct Prompt<R> {
    reader: R,
    begun: Instant,
    longest: Duration,
}

impl<R: Read> Read for Prompt<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.begun.elapsed() < self.longest {
            self.reader.read(buffer)
        } else {
            Err(io::Error::other(ureq::Error::Timeout(Timeout::RecvBody)))
        }
    }
}

/// Whether nothing else in a reply tells where it ends.
fn ends_with_connection(reply: &HttpReply) -> bool {
    let tells = |name| reply.headers.get(name).is_some();
    !tells("content-length") && !tells("transfer-encoding")
}

/// What went wrong on this side of the connection.
enum Fault {
    Source(io::Error),
    Sink(io::Error),
}

/// Writes all of a reply, or says why it cannot be written.
fn copy(mut reader: impl Read, sink: &mut dyn Write) -> Result<Option<io::Error>, ureq::Error> {
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        let read = reader.read(&mut piece).map_err(unwrapped)?;
        if read == 0 {
            return Ok(None);
        }
        if let Err(error) = sink.write_all(&piece[..read]) {
            return Ok(Some(error));
        }
    }
}

/// Hands out a body of the length that was announced. When it turns out to have another one, its last
/// byte does not go out.
struct Source<'a> {
    reader: &'a mut dyn Read,
    left: u64,
    fault: Option<io::Error>,
}

impl Source<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let read = self.reader.read(&mut buffer[..room])?;
        self.left -= read as u64;
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        if read == 0 {
            return Err(wrong("it is shorter than it was"));
        }
        if self.left == 0 && self.reader.take(1).read_to_end(&mut Vec::new())? > 0 {
            return Err(wrong("it is longer than it was"));
        }
        Ok(read)
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.next(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.fault = Some(error);
                    return Err(io::Error::other("the body cannot be read"));
                }
                read => return read,
            }
        }
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
