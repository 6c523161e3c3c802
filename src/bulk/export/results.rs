//! Files of result lines, read several times: first to find the line that counts for each id, then only these
//! lines.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::ExportReport;
use crate::base::{Context, Error, ErrorKind, named_file};
use crate::bulk::input::fault::{of_file, unreadable};
use crate::bulk::results::{LinesAt, could_be_torn, each_line};

/// Result files, one after the other.
pub(super) struct ResultFiles(Vec<(PathBuf, File)>);

/// The place of a line: the number of its file, and its position there.
pub(super) type Place = (u32, u64);

/// The fields of a result line that identify it.
#[derive(Deserialize)]
struct Identity {
    id: String,
    #[serde(rename = "success")]
    _success: bool,
    /// The words of a command. Its id is its position in a list, and another command has that id if the list has
    /// changed.
    command: Option<Value>,
}

impl Identity {
    fn read(line: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// 96 bits of a hash.
    fn hash(&self) -> [u32; 3] {
        let mut hash = Sha256::new().chain_update(&self.id);
        if let Some(command) = &self.command {
            hash.update(format!(" {command}"));
        }
        let digest = hash.finalize();
        let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|j| digest[4 * i + j]));
        [word(0), word(1), word(2)]
    }
}

const CHANGED: &str = "it changed while it was read; nothing was written; run the command again";
const LINES_BETWEEN_LOOKS: usize = 1000;

impl ResultFiles {
    pub(super) fn open<P: AsRef<Path>>(paths: &[P]) -> Result<Self, Error> {
        let open = |path: &P| {
            let path = path.as_ref();
            let file = named_file::regular(path, true).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => {
                    let why =
                        "it is not a regular file; results are read more than once: save them as one";
                    of_file(path.display(), why)
                }
                _ => unreadable(path.display(), &error),
            })?;
            Ok((path.to_owned(), file))
        };
        paths.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    #[cfg(feature = "tables")]
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(path, _)| path.as_path())
    }

    /// Reads all lines to find those that count, one per id, in their order; a truncated last line does not.
    ///
    /// # Errors
    /// An error with the line number if a line is not a result.
    pub(super) fn scan(&self, ctx: &Context) -> Result<(Vec<Place>, ExportReport), Error> {
        let (mut found, mut report) = (Vec::new(), ExportReport::default());
        // The hash of an id, and the place of a line of it.
        let mut keys: Vec<([u32; 3], Place)> = Vec::new();
        for (which, (path, file)) in (0..).zip(&self.0) {
            each_line(path, file, &mut |line, at, number, whole| {
                if number.is_multiple_of(LINES_BETWEEN_LOOKS as u64) {
                    ctx.check()?;
                }
                match Identity::read(line) {
                    Ok(line) => keys.push((line.hash(), (which, at))),
                    Err(_) if !whole && could_be_torn(line, at) => report.torn.push(path.clone()),
                    Err(why) => {
                        let why = format!(
                            "{}:{number}: not a result line ({why}); `batchwright run` and \
                             `batchwright results` write what can be exported",
                            path.display()
                        );
                        return Err(Error::new(ErrorKind::Invalid, why));
                    }
                }
                Ok(())
            })?;
        }
        keys.sort_unstable();
        for lines in keys.chunk_by(|a, b| a.0 == b.0) {
            found.extend(lines.last().map(|line| line.1));
        }
        report.rows = found.len() as u64;
        report.replaced = keys.len() as u64 - report.rows;
        found.sort_unstable();
        Ok((found, report))
    }

    /// Passes the lines at these places to `visit`, in this order.
    pub(super) fn read(
        &self,
        places: &[Place],
        ctx: &Context,
        visit: &mut dyn FnMut(&str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for places in places.chunk_by(|a, b| a.0 == b.0) {
            let (path, file) = &self.0[places[0].0 as usize];
            let failed = |error: io::Error| unreadable(path.display(), &error);
            let mut lines = LinesAt::new(file).map_err(failed)?;
            for (n, (_, place)) in places.iter().enumerate() {
                if n.is_multiple_of(LINES_BETWEEN_LOOKS) {
                    ctx.check()?;
                }
                let line = lines.read(*place).map_err(failed)?.trim_ascii();
                visit(std::str::from_utf8(line).map_err(|_| of_file(path.display(), CHANGED))?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, rest: &str) -> String {
        format!("{{\"id\":\"{id}\",\"success\":true{rest}}}")
    }

    fn scanned(texts: &[String]) -> (Vec<String>, Result<ExportReport, Error>) {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..texts.len())
            .map(|i| folder.path().join(format!("{i}.jsonl")))
            .collect();
        for (path, text) in paths.iter().zip(texts) {
            std::fs::write(path, text).unwrap();
        }
        let files = ResultFiles::open(&paths).unwrap();
        let ctx = Context::new();
        let found = files.scan(&ctx);
        let mut lines = Vec::new();
        if let Ok((found, _)) = &found {
            let mut keep = |line: &str| {
                lines.push(line.to_owned());
                Ok(())
            };
            files.read(found, &ctx, &mut keep).unwrap();
        }
        (lines, found.map(|(_, report)| report))
    }

    #[test]
    fn the_last_line_of_an_id_counts_in_all_files() {
        let (a, b) = (line("a", ""), line("b", ",\"n\":1"));
        let newer = line("a", ",\"n\":2");
        let text = [&a, &b, &newer, ""].map(|l| format!("{l}\r\n"));
        let (lines, found) = scanned(&[text.concat()]);
        assert_eq!(lines, [b, newer]);
        assert_eq!(found.unwrap().replaced, 1);
        let (lines, found) = scanned(&[format!("{a}\n{}", line("b", "")), line("a", ",\"n\":2")]);
        assert_eq!(lines, [line("b", ""), line("a", ",\"n\":2")]);
        assert_eq!(found.unwrap().replaced, 1);
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
        assert_eq!(scanned(&[String::new()]).1.unwrap().rows, 0);
    }
}
