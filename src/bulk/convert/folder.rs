//! Folders of source files: each unit becomes a row of a table.

use std::path::Path;

use crate::base::{Context, Error, Optional};
use crate::bulk::input::{Columns, Form, NamedFile, Place, PromptSettings, fault};
use crate::bulk::spool::SpoolFile;
use crate::sources::{LeftOut, Unit, shown_path};

/// The names of the columns. Without a template the last one is the prompt.
const COLUMNS: [&str; 7] = [
    "id",
    "path",
    "name",
    "language",
    "lines",
    "start_line",
    CONTENT,
];
const CONTENT: &str = "content";

/// Writes one row per unit, in the order of the paths.
pub(super) fn open(
    folder: &Path,
    settings: &PromptSettings,
    spool_folder: &Path,
    ctx: &Context,
) -> Result<NamedFile, Error> {
    let name = shown_path(folder).into_owned();
    let refused = |why: &str| fault::of_file(&name, why);
    let others = [
        // One prompt per file is what a folder has anyway.
        (
            settings.form.is_some_and(|form| form != Form::Whole),
            "--format",
        ),
        (settings.delimiter.is_some(), "--delimiter"),
        (settings.quotes.is_some(), "--quotes"),
        (settings.encoding.is_some(), "--encoding"),
        (settings.sheet.is_some(), "--sheet"),
    ];
    if let Some((_, flag)) = others.iter().find(|(given, _)| *given) {
        return Err(refused(&format!(
            "found {flag}, which applies only to files; expected a file, not a folder"
        )));
    }
    let scanner = settings.scanner.clone().unwrap_or_default();
    let scanner = scanner.set(settings.results.as_ref(), |scanner, results| {
        scanner.without(results)
    });
    let split = settings.split.unwrap_or_default();
    let mut spool = SpoolFile::new(spool_folder, &name, u64::MAX)?;
    let (mut left_out, mut units) = (LeftOut::default(), 0);
    let found = scanner.split_directory(folder, split, ctx, row, |file| {
        units += file.units;
        left_out.add(&file.info);
        spool.write(&file.written)
    })?;
    if found == 0 {
        return Err(refused(
            "found no files; expected some that fit the pattern: hidden and ignored ones are left out first, see \
             batchwright scan --hidden --no-ignore",
        ));
    }
    if units == 0 {
        let why = format!(
            "found nothing to ask about in {found} files ({left_out}); expected at least one that can be split by \
             {split}"
        );
        return Err(refused(&why));
    }
    let source = spool.into_source()?;
    Ok(NamedFile {
        first: Place::row(1),
        columns: Some(Columns::new(COLUMNS.map(str::to_owned).to_vec(), 0).prompt(CONTENT)),
        left_out,
        ..NamedFile::new(name, Form::Jsonl, source)
    })
}

/// Writes the row of a unit.
fn row(unit: &Unit<'_>, out: &mut Vec<u8>) {
    let (lines, start) = (unit.lines(), unit.start_line);
    let row = (
        &unit.id,
        &unit.path,
        &unit.name,
        unit.language,
        lines,
        start,
        unit.content,
    );
    // Writing texts and numbers to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, &row);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::sources::{FileScanner, SkipReason, tree};

    fn opened(folder: &Path, scanner: FileScanner, split: &str) -> Result<NamedFile, Error> {
        let settings = PromptSettings {
            scanner: Some(scanner),
            split: Some(split.parse().unwrap()),
            ..PromptSettings::default()
        };
        open(folder, &settings, &std::env::temp_dir(), &Context::new())
    }

    fn text(file: &NamedFile) -> String {
        let mut text = String::new();
        file.source
            .reader()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    #[test]
    fn units_are_rows_and_skipped_files_are_counted() {
        let folder = tree(&[
            ("a.py", "def f(x):\n    return \"\\n\"\n"),
            ("b/c.py", "class C:\n    def m(self): pass\n"),
            ("bad.py", "def (:\n"),
            ("none.py", "x = 1\n"),
        ]);
        let file = opened(folder.path(), FileScanner::new(), "function").unwrap();
        assert_eq!(
            text(&file),
            "[\"a.py::f\",\"a.py\",\"f\",\"python\",2,1,\"def f(x):\\n    return \\\"\\\\n\\\"\"]\n\
             [\"b/c.py::C.m\",\"b/c.py\",\"m\",\"python\",1,2,\"    def m(self): pass\"]\n"
        );
        assert_eq!(file.left_out.to_string(), "1 no units, 1 syntax error");
        let first = &file.left_out.first[0];
        assert!(first.path.ends_with("bad.py"), "{first:?}");
        assert_eq!(first.skip_reason, Some(SkipReason::SyntaxError { line: 1 }));
    }

    #[test]
    fn the_rows_are_the_same_on_any_number_of_threads() {
        let body = |i: usize| format!("def f{i}():\n    pass\n").repeat(1 + i % 5);
        let names: Vec<(String, String)> = (0..600)
            .map(|i| (format!("{}/{i}.py", i % 9), body(i)))
            .collect();
        let files: Vec<(&str, &str)> = names
            .iter()
            .map(|(name, text)| (&**name, &**text))
            .collect();
        let folder = tree(&files);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let rows = || text(&opened(folder.path(), FileScanner::new(), "function").unwrap());
            pool.build().unwrap().install(rows)
        };
        let one = on(1);
        assert_eq!(one.lines().count(), 600 / 5 * 15);
        assert!(on(7) == one);
    }

    #[test]
    fn a_folder_without_units_is_an_error() {
        let folder = tree(&[("a.py", "x = 1\n"), ("b.md", "text")]);
        let refused = |pattern: &str| {
            let scanner = FileScanner::new().pattern(pattern);
            opened(folder.path(), scanner, "class")
                .map(drop)
                .unwrap_err()
                .message()
                .to_owned()
        };
        let none = refused("*.go");
        assert!(
            none.contains("found no files; expected some that fit the pattern"),
            "{none}"
        );
        let empty = refused("*");
        assert!(
            empty.contains("in 2 files (1 no parser, 1 no units); expected at least one that can be split by class"),
            "{empty}"
        );
    }
}
