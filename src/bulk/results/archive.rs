//! Paid answers that a compaction removes from an output: kept in a file beside it, `OUTPUT.superseded.jsonl`, and taken
//! back if their requests are asked again.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{LONGEST_LINE, PreviousLine, ResultsFile, each_line, trouble};
use crate::base::disk::sync_folder;
use crate::base::error::{Error, ErrorKind};
use crate::bulk::input::Fields;
use crate::bulk::run_settings::RunSettings;

/// Fields that say that a line is superseded, and since when.
const SUPERSEDED: [&str; 3] = ["superseded", "superseded_at", "superseded_reason"];
/// Bytes that are written at once.
const CHUNK_BYTES: usize = 1 << 20;

impl ResultsFile {
    /// Appends the lines at these places to the archive and syncs it to the disk. A line that is there already, since a
    /// run was killed between this and the compaction, is not appended again.
    pub(super) fn archive(&self, mut places: Vec<u64>) -> Result<(), Error> {
        if places.is_empty() || !self.archives {
            return Ok(());
        }
        places.sort_unstable();
        let mut archive = Self::open(&self.archive_path(), true, &mut |_, _| {})
            .map_err(|error| self.not_archived(&error.to_string()))?;
        archive.mend()?;
        let mut before = HashSet::new();
        archive.lines(&mut |line| {
            let line = String::from_utf8_lossy(line);
            before.insert(Sha256::digest(result_of(&line)));
        })?;
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let settings = self.settings.clone().unwrap_or_default();
        let mut write = |lines: &str| {
            let written = archive.append_io(lines.as_bytes());
            written.map_err(|error| self.not_archived(&error.to_string()))
        };
        let mut lines = String::new();
        for place in places {
            let line = self.line_at(place)?;
            let result = result_of(line.trim());
            if before.insert(Sha256::digest(&result)) {
                lines.push_str(&result);
                lines.push_str(&format!(
                    ",\"superseded_at\":{},\"superseded_reason\":{}}}\n",
                    json!(now),
                    json!(reason(&settings, &line)),
                ));
            }
            if lines.len() >= CHUNK_BYTES {
                write(&lines)?;
                lines.clear();
            }
        }
        write(&lines)?;
        // The lines outlive a power loss only if the name does.
        let _ = sync_folder(&archive.path);
        Ok(())
    }

    /// Hands every line of the archive to `visit` with its place. An archive that cannot be read has none.
    pub(crate) fn archived(&self, visit: &mut dyn FnMut(PreviousLine, u64)) {
        let Some(archive) = self.open_archive() else {
            return;
        };
        let read = each_line(&archive, &mut |line, at, _, _| {
            if let Ok(line) = serde_json::from_slice(line) {
                visit(line, at);
            }
            Ok(())
        });
        if read.is_err() {
            let path = self.archive_path();
            log::warn!("{}: earlier answers cannot be read", path.display());
        }
    }

    /// Appends the answers at these places of the archive again.
    pub(crate) fn restore(&mut self, places: &[u64]) -> Result<(), Error> {
        let Some(archive) = self.open_archive().filter(|_| !places.is_empty()) else {
            return Ok(());
        };
        let mut archive = BufReader::new(archive);
        let path = self.path.clone();
        let failed = |error: io::Error| {
            let what = "cannot take back the answers in its archive";
            trouble(&path, what, &error)
        };
        let (mut line, mut lines) = (String::new(), String::new());
        for (i, place) in places.iter().enumerate() {
            line.clear();
            let found = archive.seek(SeekFrom::Start(*place));
            let read = found.and_then(|_| archive.by_ref().take(LONGEST_LINE).read_line(&mut line));
            read.map_err(failed)?;
            lines.push_str(&result_of(line.trim()));
            lines.push_str("}\n");
            if lines.len() >= CHUNK_BYTES || i + 1 == places.len() {
                self.append_io(lines.as_bytes()).map_err(failed)?;
                lines.clear();
            }
        }
        Ok(())
    }

    fn open_archive(&self) -> Option<File> {
        File::open(self.archive_path())
            .ok()
            .filter(|_| self.archives)
    }

    fn archive_path(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".superseded.jsonl");
        self.path.with_file_name(name)
    }

    fn not_archived(&self, why: &str) -> Error {
        let why = format!(
            "all results are saved, but the superseded answers in {} cannot be moved to their own file, so they stay \
             there: {why}",
            self.path.display()
        );
        Error::new(ErrorKind::Invalid, why)
    }
}

/// A result line without its closing brace and without what says that it is superseded.
fn result_of(line: &str) -> String {
    let Some(fields) = Fields::of(line) else {
        return line.strip_suffix('}').unwrap_or(line).to_owned();
    };
    let fields = fields
        .0
        .iter()
        .filter(|(name, _)| !SUPERSEDED.contains(&name.as_str()))
        .map(|(name, value)| format!("{}:{}", json!(name), value.get()));
    format!("{{{}", fields.collect::<Vec<_>>().join(","))
}

fn reason(settings: &RunSettings, line: &str) -> String {
    match serde_json::from_str::<PreviousLine>(line) {
        // Lines of changed requests are marked before the first call.
        Ok(line) if !line.superseded => "answered again".to_owned(),
        Ok(line) => settings.changed_since(line.settings.as_deref()),
        Err(_) => settings.changed_since(None),
    }
}
