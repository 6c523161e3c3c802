//! Codings of bodies that no request asks for, although some proxies and stores apply them.

use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::StreamingDecoder;

use super::headers::HttpHeaders;

/// The coding of a body that begins with these bytes. A proxy that decodes may leave the header; a store that keeps coded
/// files may send none, and then they are read only if there is no other meaning of the bytes (`lines`).
pub(super) fn coding_of(headers: &HttpHeaders, first: &[u8], lines: bool) -> Option<String> {
    let named = headers.get("content-encoding").unwrap_or_default();
    let last = named.rsplit(',').next().unwrap_or_default();
    let named = Some(last.trim().to_ascii_lowercase());
    let named = named.filter(|coding| !matches!(&**coding, "" | "identity"));
    let is_coded = lines || named.is_some();
    match first {
        [] | [b'{' | b'[' | b'<' | b' ' | b'\n', ..] => None,
        [0x1f, 0x8b, ..] => is_coded.then(|| "gzip".to_owned()),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => is_coded.then(|| "zstd".to_owned()),
        _ => named,
    }
}

/// Decodes a body that begins with `first`.
///
/// # Errors
/// For a coding that is not supported.
pub(super) fn decoder<'r>(
    coding: &str,
    first: &'r [u8],
    rest: impl Read + 'r,
) -> io::Result<Box<dyn Read + 'r>> {
    let is_zlib = matches!(first, [0x78, second, ..] if (0x7800 + u32::from(*second)) % 31 == 0);
    let body = first.chain(rest);
    Ok(match coding {
        "gzip" | "x-gzip" => Box::new(MultiGzDecoder::new(body)),
        "deflate" if is_zlib => Box::new(ZlibDecoder::new(body)),
        "deflate" => Box::new(DeflateDecoder::new(body)),
        "zstd" => Box::new(StreamingDecoder::new(body).map_err(io::Error::other)?),
        other => return Err(io::Error::new(io::ErrorKind::Unsupported, unasked(other))),
    })
}

/// What is said of a coding that is not supported.
pub(super) fn unasked(coding: &str) -> String {
    format!(
        "it is compressed (Content-Encoding: {coding}), although the request accepts no compression"
    )
}
