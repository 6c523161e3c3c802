//! Checks the parts of a workbook before they are read, because the reader holds all shared strings, one cell and one
//! tag in memory, whatever their size. Each part is unpacked once and not stored.

use std::borrow::Cow;
use std::io::{self, BufReader, Read, Seek};

use zip::ZipArchive;

use super::xml::{Bounds, Scan};
use crate::base::{Context, Error};
use crate::bulk::input::MAX_RECORD_BYTES;

/// Maximum number of parts. Excel itself writes one for each sheet, drawing and picture.
const MOST_PARTS: usize = 65_536;
/// Memory for shared strings, styles and names of sheets: for any file, and more for each byte of a large one.
const HELD_ANYWAY: u64 = 256 << 20;
const HELD_PER_BYTE: u64 = 16;

/// Names of parts that contain no XML: images, videos, sounds, macros, other documents.
const BINARY: [&str; 16] = [
    ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".emf", ".wmf", ".wdp", ".ico",
    ".webp", ".mp4", ".wav", ".bin", ".xlsx",
];
/// The part that names the parts of the workbook.
const RELATIONS: &str = "xl/_rels/workbook.xml.rels";
/// The one of these that a workbook itself contains.
const MACROS: &str = "vbaproject.bin";

/// A workbook has one relation for each sheet.
const MOST_RELATIONS: u64 = 16 << 20;

/// Why a workbook is rejected.
pub(super) enum Refused {
    Stopped(Error),
    Because(String),
}

/// Checks all parts of a workbook of `len` bytes, whose unpacked size may be at most `most_unpacked` bytes.
pub(super) fn check(
    file: impl Read + Seek,
    len: u64,
    most_unpacked: u64,
    ctx: &Context,
) -> Result<(), Refused> {
    let refused = |why: String| Err(Refused::Because(why));
    let broken = |error: zip::result::ZipError| Refused::Because(error.to_string());
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    if archive.len() > MOST_PARTS {
        let parts = archive.len();
        return refused(format!(
            "it has {parts} parts; expected at most {MOST_PARTS}"
        ));
    }
    if archive.has_duplicate_names() {
        return refused("several of its parts have the same name".to_owned());
    }
    // Otherwise a few bytes could be unpacked as any number of parts.
    if archive.has_overlapping_files().map_err(broken)? {
        return refused("its parts overlap".to_owned());
    }
    let held = HELD_ANYWAY.saturating_add(len.saturating_mul(HELD_PER_BYTE));
    let mut bounds = Bounds::new(MAX_RECORD_BYTES as u64, held);
    let mut unpacked = 0_u64;
    let mut piece = vec![0; 1 << 16];
    let reads_binary = may_read_binary(&mut archive);
    for i in 0..archive.len() {
        // A part that cannot be read here cannot be read later either.
        let Ok(mut part) = archive.by_index(i) else {
            continue;
        };
        let name = part
            .name()
            .map(|name| name.into_owned())
            .unwrap_or_default();
        let is_scanned = reads_binary || !is_binary(&name);
        let mut scan = Scan::new(&mut bounds, names_are_copied(&name));
        loop {
            ctx.check().map_err(Refused::Stopped)?;
            let n = match part.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            unpacked += n as u64;
            if unpacked > most_unpacked {
                return refused(format!(
                    "its unpacked size exceeds {} MiB, the limit of --max-unpacked",
                    most_unpacked >> 20
                ));
            }
            if is_scanned && let Err(why) = scan.feed(&piece[..n]) {
                return refused(format!("its part {name} has {why}"));
            }
        }
    }
    Ok(())
}

fn is_binary(part: &str) -> bool {
    let part = part.to_ascii_lowercase();
    BINARY.iter().any(|end| part.ends_with(end))
}

/// Whether a part may be read as XML although its name indicates no XML: the workbook may declare any part as a sheet.
fn may_read_binary(archive: &mut ZipArchive<impl Read + Seek>) -> bool {
    let named = archive
        .file_names()
        .flatten()
        .find(|name| name.eq_ignore_ascii_case(RELATIONS))
        .map(Cow::into_owned);
    let Some(name) = named else {
        return true;
    };
    let mut text = Vec::new();
    let read = archive
        .by_name(&name)
        .map(|part| part.take(MOST_RELATIONS).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
    // An escaped name could hide which part it names.
    let hides = text.contains('&') || text.len() as u64 >= MOST_RELATIONS;
    let text = text.replace(MACROS, "");
    !matches!(read, Ok(Ok(_))) || hides || BINARY.iter().any(|end| text.contains(end))
}

/// Whether the reader copies names of this part into each style or sheet that refers to them.
fn names_are_copied(part: &str) -> bool {
    let part = part.to_ascii_lowercase();
    part.ends_with(".rels") || part.ends_with("styles.xml")
}
