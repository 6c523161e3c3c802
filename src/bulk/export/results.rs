//! Files of result lines, read several times: first to find the line that counts for each id, then only these
//! lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::base::bom::without_bom;
use crate::base::{Context, Error, ErrorKind};
use crate::bulk::results::{LONGEST_LINE, could_be_torn, without_zeros};

/// Result files, one after the other. Lines that are appended while they are read are ignored.
pub(super) struct ResultFiles {
    files: Vec<ResultFile>,
}

struct ResultFile {
    path: PathBuf,
    file: File,
    /// Its length when it was opened.
    len: u64,
    /// Total bytes of the files before it.
    base: u64,
}

/// The result of the first reading.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The lines that count, one per id, by their offsets in all files together.
    pub lines: Vec<u64>,
    /// Lines that a later line with the same id replaces.
    pub replaced: u64,
    /// Ids that are in more than one file.
    pub in_several_files: u64,
    /// Files whose last line is truncated.
    pub torn: Vec<PathBuf>,
}

/// The fields of a result line that identify it.
#[derive(Deserialize)]
struct Identity {
    id: String,
    #[serde(rename = "success")]
    _success: bool,
    #[serde(default)]
    superseded: bool,
    /// The words of a command. Its id is its position in a list, and another command has that id if the list has
    /// changed.
    command: Option<Value>,
}

impl Identity {
    fn hash(&self) -> [u32; 3] {
        match &self.command {
            Some(command) => hash(&format!("{} {command}", self.id)),
            None => hash(&self.id),
        }
    }
}

/// 96 bits of an id's hash, the position of one of its lines, and whether its request is the current one.
type Key = ([u32; 3], u64, bool);

/// The handler of a line, with its position.
pub(super) type Visit<'v> = dyn FnMut(&str, u64) -> Result<(), Error> + 'v;
/// The same for lines that may be invalid: the text is the reason.
type Check<'v> = dyn FnMut(&str, u64) -> Result<Result<(), String>, Error> + 'v;

impl ResultFiles {
    pub(super) fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self, Error> {
        let mut files: Vec<ResultFile> = Vec::new();
        for path in paths.iter().map(AsRef::as_ref) {
            let metadata = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
            if !metadata.is_file() {
                let why =
                    "it is not a regular file; results are read more than once: save them as one";
                return Err(refused(path, why));
            }
            let file = File::open(path).map_err(|error| unreadable(path, &error))?;
            let base = files.last().map_or(0, |last| last.base + last.len);
            files.push(ResultFile {
                path: path.to_owned(),
                len: metadata.len(),
                file,
                base,
            });
        }
        Ok(Self { files })
    }

    #[cfg(feature = "tables")]
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    fn file_of(&self, at: u64) -> usize {
        let behind = self.files.partition_point(|file| file.base <= at);
        behind.saturating_sub(1)
    }

    /// Reads all lines and passes each to `visit`, except a truncated last line.
    ///
    /// # Errors
    /// An error with the line number if a line is not a result; any error that `visit` returns.
    pub(super) fn scan(&self, ctx: &Context, visit: &mut Visit<'_>) -> Result<Found, Error> {
        let mut keys: Vec<Key> = Vec::new();
        let mut found = Found::default();
        for file in &self.files {
            let is_torn = file.scan(ctx, &mut |line, at| {
                let identity: Identity = match serde_json::from_str(line) {
                    Ok(identity) => identity,
                    Err(error) => return Ok(Err(error.to_string())),
                };
                keys.push((identity.hash(), at, !identity.superseded));
                visit(line, at).map(Ok)
            })?;
            if is_torn {
                found.torn.push(file.path.clone());
            }
        }
        keys.sort_unstable();
        for lines in keys.chunk_by(|a, b| a.0 == b.0) {
            let counts = lines
                .iter()
                .max_by_key(|(_, at, is_current)| (*is_current, *at));
            found.lines.extend(counts.map(|(_, at, _)| *at));
            found.replaced += lines.len() as u64 - 1;
            let (first, last) = (lines[0].1, lines[lines.len() - 1].1);
            found.in_several_files += u64::from(self.file_of(first) != self.file_of(last));
        }
        found.lines.sort_unstable();
        Ok(found)
    }

    /// Passes the lines at these positions to `visit`, in this order.
    pub(super) fn read(
        &self,
        places: impl Iterator<Item = u64>,
        ctx: &Context,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let mut line = Vec::new();
        let mut open: Option<(usize, BufReader<&File>, u64)> = None;
        for (n, place) in places.enumerate() {
            if n.is_multiple_of(LINES_BETWEEN_LOOKS) {
                ctx.check()?;
            }
            let which = self.file_of(place);
            let file = &self.files[which];
            let (reader, at) = match &mut open {
                Some((other, reader, at)) if *other == which => (reader, at),
                _ => {
                    let mut reader = BufReader::with_capacity(1 << 16, &file.file);
                    let start = reader.seek(SeekFrom::Start(0));
                    start.map_err(|error| unreadable(&file.path, &error))?;
                    let (_, reader, at) = open.insert((which, reader, 0));
                    (reader, at)
                }
            };
            let offset = place - file.base;
            line.clear();
            let read = reader
                // The next line is usually near, so buffered bytes are reused.
                .seek_relative(offset as i64 - *at as i64)
                .and_then(|()| reader.read_until(b'\n', &mut line));
            *at = offset + read.map_err(|error| unreadable(&file.path, &error))? as u64;
            let text = std::str::from_utf8(line.trim_ascii());
            let text = text.map_err(|_| refused(&file.path, CHANGED))?;
            visit(text, place)?;
        }
        Ok(())
    }
}

const CHANGED: &str = "it changed while it was read; nothing was written; run the command again";
const LINES_BETWEEN_LOOKS: usize = 1000;

impl ResultFile {
    /// Passes each line to `visit`, which returns what is wrong with it. Returns true if the last line is truncated.
    fn scan(&self, ctx: &Context, visit: &mut Check<'_>) -> Result<bool, Error> {
        let failed = |error: io::Error| unreadable(&self.path, &error);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut reader = BufReader::with_capacity(1 << 20, file.take(self.len));
        let mut line = Vec::new();
        let (mut at, mut number) = (0_u64, 0_usize);
        loop {
            if number.is_multiple_of(LINES_BETWEEN_LOOKS) {
                ctx.check()?;
            }
            line.clear();
            let mut bounded = (&mut reader).take(LONGEST_LINE);
            let read = bounded.read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 {
                return Ok(false);
            }
            number += 1;
            let text = if number == 1 {
                without_bom(&line)
            } else {
                &line
            };
            let text = match without_zeros(text) {
                [] => text,
                rest => rest,
            };
            let begins = at + (line.len() - text.len()) as u64;
            let bytes = text.trim_ascii();
            if !bytes.is_empty() {
                let why = match std::str::from_utf8(bytes) {
                    Ok(text) => visit(text, self.base + begins)?,
                    Err(error) => Err(error.to_string()),
                };
                match why {
                    Ok(()) => {}
                    Err(_) if !line.ends_with(b"\n") && could_be_torn(bytes, at) => {
                        return Ok(true);
                    }
                    Err(why) => {
                        return Err(Error::new(
                            ErrorKind::Invalid,
                            format!(
                                "{}:{number}: not a result line ({why}); `batchwright run` and \
                                 `batchwright results` write what can be exported",
                                self.path.display()
                            ),
                        ));
                    }
                }
            }
            at += read as u64;
        }
    }
}

fn hash(id: &str) -> [u32; 3] {
    let digest = Sha256::digest(id.as_bytes());
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| digest[4 * i + j]));
    [word(0), word(1), word(2)]
}

pub(super) fn refused(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{}: {why}", path.display()))
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    refused(path, &format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, rest: &str) -> String {
        format!("{{\"id\":\"{id}\",\"success\":true{rest}}}")
    }

    fn scanned(texts: &[String]) -> (Vec<String>, Result<Found, Error>) {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..texts.len())
            .map(|i| folder.path().join(format!("{i}.jsonl")))
            .collect();
        for (path, text) in paths.iter().zip(texts) {
            std::fs::write(path, text).unwrap();
        }
        let files = ResultFiles::open(&paths).unwrap();
        let ctx = Context::new();
        let found = files.scan(&ctx, &mut |_, _| Ok(()));
        let mut lines = Vec::new();
        if let Ok(found) = &found {
            let mut keep = |line: &str, _| {
                lines.push(line.to_owned());
                Ok(())
            };
            let places = found.lines.iter().copied();
            files.read(places, &ctx, &mut keep).unwrap();
        }
        (lines, found)
    }

    #[test]
    fn the_last_line_of_an_id_counts_unless_it_is_superseded() {
        let (a, b) = (line("a", ""), line("b", ",\"n\":1"));
        let newer = line("a", ",\"n\":2");
        let aside = line("b", ",\"n\":3,\"superseded\":true");
        let only = line("c", ",\"superseded\":true");
        let text = [&a, &b, &newer, "", &aside, &only].map(|l| format!("{l}\r\n"));
        let (lines, found) = scanned(&[text.concat()]);
        assert_eq!(lines, [b, newer, only]);
        let found = found.unwrap();
        assert_eq!(found.replaced, 2);
        assert_eq!(found.in_several_files, 0);
    }

    #[test]
    fn another_command_with_the_same_number_does_not_replace_one() {
        let (old, new) = (
            line("1", ",\"command\":[\"b\"]"),
            line("1", ",\"command\":[\"a\"]"),
        );
        let again = line("1", ",\"command\":[\"a\"],\"attempts\":2");
        let (lines, found) = scanned(&[[&old, &new, &again].map(|l| format!("{l}\n")).concat()]);
        assert_eq!((lines, found.unwrap().replaced), (vec![old, again], 1));
    }

    #[test]
    fn the_last_of_several_files_counts() {
        let texts = [line("a", "") + "\n" + &line("b", ""), line("a", ",\"n\":2")];
        let (lines, found) = scanned(&texts);
        assert_eq!(lines, [line("b", ""), line("a", ",\"n\":2")]);
        assert_eq!(found.unwrap().in_several_files, 1);
    }

    #[test]
    fn a_truncated_last_line_is_omitted_and_other_text_is_rejected() {
        let whole = line("a", "") + "\n";
        for torn in ["{\"id\":\"b\",\"succ", "{\"i", "\0\0\0"] {
            let (lines, found) = scanned(&[whole.clone() + torn]);
            assert_eq!(lines, [line("a", "")]);
            assert_eq!(found.unwrap().torn.len(), 1, "{torn}");
        }
        for (text, number) in [
            (whole.clone() + "{\"id\":\"b\"}\n" + &whole, 2),
            (whole.clone() + "id,text", 2),
            ("id,text\n1,a\n".to_owned(), 1),
            (whole.clone() + "{\"id\":\"b\",\"succ\n", 2),
        ] {
            let why = scanned(&[text]).1.unwrap_err();
            let said = format!("0.jsonl:{number}: not a result line");
            assert!(why.message().contains(&said), "{why}");
        }
        assert!(scanned(&[String::new()]).1.unwrap().lines.is_empty());
    }
}
