//! Replies about files and batches: small ones at once, downloads piece by piece, at a configured speed and with
//! configured faults.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Family;
use super::life::Blob;
use super::pause::BatchPoint;
use super::results::Results;
use super::store::Spoiled;
use crate::reply::Head;
use crate::serve::Shared;

const PIECE: usize = 64 << 10;

/// The reply to a request.
#[derive(Debug)]
pub(super) enum Reply {
    Json(Value),
    /// A header, and JSON if there is any.
    Headed((&'static str, String), Option<Value>),
    Download(Source, Spoiled),
    /// The connection is closed without a reply.
    Nothing,
}

/// The content of a download.
#[derive(Debug)]
pub(super) enum Source {
    File(Arc<Blob>),
    /// A page of results that has been made already.
    Page(Vec<u8>),
    /// One to a line.
    Lines(Results),
}

impl Source {
    fn size(&self, shared: &Shared) -> u64 {
        match self {
            Source::File(blob) => blob.range.len() as u64,
            Source::Page(bytes) => bytes.len() as u64,
            Source::Lines(results) => results.size(&shared.config),
        }
    }
}

/// Sends a download, head and all. An error means that the connection is over.
pub(super) fn download(
    shared: &Shared,
    stream: &TcpStream,
    family: Family,
    source: &Source,
    spoiled: Spoiled,
    close: bool,
) -> io::Result<()> {
    let size = source.size(shared);
    let chunked = family == Family::Anthropic;
    let head = Head {
        dialect: family.dialect(&shared.config),
        media: match source {
            Source::Page(_) => None,
            _ if chunked => Some("application/x-jsonl"),
            _ => Some("application/octet-stream"),
        },
        close,
        of_batches: true,
        ..Head::status(200)
    };
    let mut out = Vec::new();
    head.write_for(&mut out, (!chunked).then_some(size));
    let mut stream = stream;
    stream.write_all(&out)?;
    let is_result = !matches!(source, Source::File(_));
    let mut pipe = Pipe {
        shared,
        stream,
        chunked,
        half: is_result.then_some(size / 2),
        cut: spoiled == Spoiled::Cut,
        rate: shared.config.batches.download_rate.filter(|_| is_result),
        sent: 0,
        began: Instant::now(),
    };
    match source {
        Source::File(blob) => pipe.send(blob.get())?,
        Source::Page(bytes) => pipe.send(bytes)?,
        Source::Lines(results) => {
            let mut piece = Vec::with_capacity(PIECE);
            for nth in 0..results.len() {
                results.write(&mut piece, &shared.config, nth);
                piece.push(b'\n');
                if piece.len() >= PIECE {
                    pipe.send(&piece)?;
                    piece.clear();
                }
            }
            pipe.send(&piece)?;
        }
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

struct Pipe<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    chunked: bool,
    /// Where the middle is, until it has been passed.
    half: Option<u64>,
    cut: bool,
    rate: Option<u64>,
    sent: u64,
    began: Instant,
}

impl Pipe<'_> {
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            if self.half == Some(self.sent) {
                self.half = None;
                let Shared { batches, gate, .. } = self.shared;
                batches.pauses.pass(BatchPoint::DownloadHalf, gate);
                if self.cut {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let mut most = bytes.len() as u64;
            if let Some(half) = self.half {
                most = most.min(half - self.sent);
            }
            if let Some(rate) = self.rate {
                // Ten pieces a second: slow, but never standing still.
                most = most.min((rate / 10).max(1));
            }
            let (now, later) = bytes.split_at(most as usize);
            self.write(now)?;
            bytes = later;
            self.sent += most;
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(self.sent as f64 / rate as f64);
                self.shared.gate.wait_until(self.began + due);
                if self.shared.gate.is_stopped() {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        if !self.chunked {
            return stream.write_all(bytes);
        }
        stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
        stream.write_all(bytes)?;
        stream.write_all(b"\r\n")
    }
}
