//! Exchanges with streamed bodies, without a total time limit while bytes are transferred.

use std::io::{self, Read, Write};

use crate::base::secret::redacted_url;
use crate::base::{Context, Error, ErrorKind, Sent};

use super::call::Call;
use super::client::HttpTransport;
use super::coding::{coding_of, decoder};
use super::fault::{Fault, Limit, Patience};
use super::head::is_success;
use super::headers::HttpHeaders;
use super::input::CHUNK_BYTES;
use super::{ERROR_LIMIT, HttpMethod, HttpReply, HttpTransfer, REPLY_LIMIT};

impl HttpTransport {
    pub(super) fn stream(
        &self,
        transfer: HttpTransfer<'_>,
        ctx: &Context,
    ) -> Result<HttpReply, Error> {
        ctx.check()?;
        let (url, idle, reply) = (transfer.url, transfer.idle, transfer.reply);
        let limit_of = |limit| match limit {
            Limit::Idle => idle,
            Limit::Call | Limit::Reply => reply,
        };
        let patience = Patience::new(ctx.remaining());
        let mut call = self.begin(url, patience, ctx)?;
        let mut trouble = None;
        let result = exchange(&mut call, transfer, &mut trouble);
        match (trouble, result) {
            (Some(error), _) => Err(error),
            (None, Ok(reply)) => {
                call.finish();
                Ok(reply)
            }
            (None, Err(fault)) => Err(self.failed(call, fault, url, &limit_of, ctx)),
        }
    }
}

fn exchange(
    call: &mut Call<'_>,
    transfer: HttpTransfer<'_>,
    trouble: &mut Option<Error>,
) -> Result<HttpReply, Fault> {
    let host = redacted_url(transfer.url);
    let invalid = |what: &str, error: io::Error| {
        Error::new(ErrorKind::Invalid, format!("cannot {what} {host}: {error}"))
    };
    let patience = call.patience.clone();
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
    let is_post = transfer.method == HttpMethod::Post;
    let body = is_post.then_some((&mut source as &mut dyn Read, left));
    patience.allow(Some(transfer.idle), None);
    let sent = call.send(transfer.method.into(), transfer.headers, body);
    let unread = |error| invalid("read what is to be sent to", error);
    *trouble = source.fault.map(unread);
    let head = match sent? {
        Some(early) => early,
        None => {
            patience.allow(None, Some(transfer.reply));
            call.head()?
        }
    };
    let is_success = is_success(head.status);
    let mut bytes = Vec::new();
    match transfer.into {
        Some(sink) if is_success => {
            patience.allow(Some(transfer.idle), None);
            let unwritten = copy(call, &head.headers, sink)?;
            let unwritten = unwritten.map(|error| invalid("write what came from", error));
            *trouble = unwritten.map(|error| error.with_sent(Sent::Maybe));
        }
        _ => {
            // A limit for the whole reply, because the caller waits for it and it might arrive byte by byte.
            patience.allow(Some(transfer.idle), Some(transfer.reply));
            let limit = if is_success { REPLY_LIMIT } else { ERROR_LIMIT };
            call.take(limit).read_to_end(&mut bytes)?;
            if let Some(coding) = coding_of(&head.headers, &bytes, false) {
                let mut plain = Vec::new();
                let read = decoder(&coding, &bytes, io::empty())
                    .and_then(|decoder| decoder.take(limit).read_to_end(&mut plain));
                match read {
                    Ok(_) => bytes = plain,
                    // The status of a failure is enough.
                    Err(error) if is_success => return Err(error.into()),
                    Err(_) => {}
                }
            }
        }
    }
    Ok(HttpReply {
        status: head.status,
        headers: head.headers,
        body: bytes,
    })
}

/// Writes the complete reply, decoded, or returns the reason why it cannot be written.
fn copy(
    mut reply: impl Read,
    headers: &HttpHeaders,
    sink: &mut dyn Write,
) -> Result<Option<io::Error>, Fault> {
    let mut first = Vec::new();
    reply.by_ref().take(4).read_to_end(&mut first)?;
    let mut reader: Box<dyn Read + '_> = match coding_of(headers, &first, true) {
        Some(coding) => decoder(&coding, &first, reply)?,
        None => Box::new(first.chain(reply)),
    };
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        let read = reader.read(&mut piece)?;
        if read == 0 {
            return Ok(None);
        }
        if let Err(error) = sink.write_all(&piece[..read]) {
            return Ok(Some(error));
        }
    }
}

/// Returns a body of the announced length. If the body has another length, its last byte is not sent.
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
