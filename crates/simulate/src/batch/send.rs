//! Downloads of results piece by piece, with configured faults.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;

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
    let (first, second) = bytes.split_at(bytes.len() / 2);
    send(stream, first, chunked)?;
    let Shared { batches, gate, .. } = shared;
    batches.pauses.pass(BatchPoint::DownloadHalf, gate);
    if spoiled == Spoiled::Cut {
        return Err(ErrorKind::ConnectionAborted.into());
    }
    send(stream, second, chunked)?;
    if chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

fn send(mut stream: &TcpStream, bytes: &[u8], chunked: bool) -> io::Result<()> {
    for piece in bytes.chunks(PIECE) {
        if chunked {
            write!(stream, "{:x}\r\n", piece.len())?;
        }
        stream.write_all(piece)?;
        if chunked {
            stream.write_all(b"\r\n")?;
        }
    }
    Ok(())
}
