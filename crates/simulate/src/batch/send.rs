//! Downloads of results piece by piece, at a configured speed and with configured faults.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::pause::BatchPoint;
use super::store::Spoiled;
use crate::reply::Head;
use crate::serve::Shared;

const PIECE: usize = 64 << 10;

/// Sends a download, head and all. An error means that the connection is over.
pub(super) fn download(
    shared: &Shared,
    mut stream: &TcpStream,
    head: &Head,
    bytes: &[u8],
    spoiled: Spoiled,
    chunked: bool,
) -> io::Result<()> {
    let mut out = Vec::new();
    head.write_for(&mut out, (!chunked).then_some(bytes.len() as u64));
    stream.write_all(&out)?;
    let mut pipe = Pipe {
        shared,
        stream,
        chunked,
        sent: 0,
        began: Instant::now(),
    };
    let (first, second) = bytes.split_at(bytes.len() / 2);
    pipe.send(first)?;
    let Shared { batches, gate, .. } = shared;
    batches.pauses.pass(BatchPoint::DownloadHalf, gate);
    if spoiled == Spoiled::Cut {
        return Err(ErrorKind::ConnectionAborted.into());
    }
    pipe.send(second)?;
    if chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

struct Pipe<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    chunked: bool,
    sent: u64,
    began: Instant,
}

impl Pipe<'_> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let rate = self.shared.config.batches.download_rate;
        // Ten pieces a second: slow, but never standing still.
        let piece = rate.map_or(PIECE, |rate| (rate / 10).max(1) as usize);
        for piece in bytes.chunks(piece) {
            if self.chunked {
                self.stream
                    .write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
            }
            self.stream.write_all(piece)?;
            if self.chunked {
                self.stream.write_all(b"\r\n")?;
            }
            self.sent += piece.len() as u64;
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(self.sent as f64 / rate as f64);
                self.shared.gate.wait_until(self.began + due);
                if self.shared.gate.is_stopped() {
                    return Err(ErrorKind::ConnectionAborted.into());
                }
            }
        }
        Ok(())
    }
}
