//! Tables converted to the format of the input reader.

use std::path::PathBuf;

use super::*;
use crate::base::Context;
use crate::bulk::input::{Form, Place};

/// The lines of a converted file, and how its rows are counted.
fn lines(path: &Path, settings: &PromptSettings) -> Result<(Vec<String>, Place), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = super::super::open(path, settings, folder.path(), &Context::new());
    let file = file.map_err(|error| error.message().to_owned())?;
    assert!(file.columns.is_some());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file.source.reader().unwrap(), &mut text).unwrap();
    // No named file is left in the folder.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    Ok((text.lines().map(str::to_owned).collect(), file.first))
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    (folder, path)
}

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";

#[test]
fn names_and_settings_must_match_the_kind_of_file() {
    let (_folder, path) = place();
    let refused = |extension: &str, content: &[u8], settings: PromptSettings| {
        let path = path.with_extension(extension);
        std::fs::write(&path, content).unwrap();
        lines(&path, &settings).unwrap_err()
    };
    let no_parquet = "found no Parquet data, although the name says so";
    for (extension, content, said) in [
        ("parquet", &b"id,text\n"[..], no_parquet),
        ("xlsx", b"", "found no .xlsx data"),
        ("parquet", POINTER, "fetch it with git lfs pull"),
        ("txt", POINTER, "fetch it with git lfs pull"),
        (
            "csv",
            b"id\n",
            "found --sheet, which applies only to .xlsx files",
        ),
        ("parquet", b"PAR1PAR1", "cannot be read"),
        ("xlsx", b"PK\x03\x04", "cannot be read"),
        ("zip", b"PK\x03\x04", "found an archive (.zip)"),
        ("xls", b"\xd0\xcf\x11\xe0", "save it as .xlsx or CSV UTF-8"),
    ] {
        let settings = PromptSettings {
            sheet: (extension == "csv").then(|| "a".to_owned()),
            ..PromptSettings::default()
        };
        let is_read = cfg!(feature = "tables") || said != "cannot be read";
        let said = if is_read {
            said
        } else {
            "build it with the feature `tables`"
        };
        let why = refused(extension, content, settings);
        assert!(why.contains(said), "{extension}: {why}");
    }
}

#[test]
fn a_file_declared_as_text_is_read_as_text() {
    let (_folder, path) = place();
    let path = path.with_extension("bin");
    std::fs::write(&path, "PAR1 is how a Parquet file begins\n").unwrap();
    let settings = PromptSettings {
        form: Some(Form::Text),
        ..PromptSettings::default()
    };
    let file = super::super::open(&path, &settings, Path::new(""), &Context::new()).unwrap();
    assert_eq!(file.form, Form::Text);
}

#[cfg(feature = "tables")]
#[test]
fn rows_are_numbered_as_in_the_table() {
    use batchwright_tables::{Cell, Column, ColumnType, Sheet};

    use crate::bulk::prompts::{ColumnRole, Prompts};

    let (folder, path) = place();
    let path = path.with_extension("xlsx");
    let columns = ["id", "n"].map(|name| Column {
        name: name.to_owned(),
        kind: ColumnType::Text,
    });
    let file = std::fs::File::create(&path).unwrap();
    let mut sheet = Sheet::new(file, folder.path(), 3, &columns, String::new()).unwrap();
    for cells in [
        [Cell::Int(7), Cell::Float(0.5)],
        [Cell::Null, Cell::Null],
        [Cell::Int(8), Cell::Null],
    ] {
        sheet.row(&cells).unwrap();
    }
    sheet.finish().unwrap();
    let (rows, first) = lines(&path, &PromptSettings::default()).unwrap();
    assert_eq!(rows, ["[7,0.5]", "", "[8,null]"]);
    assert_eq!(first, Place::row(2));
    let settings = PromptSettings::new().template("{{id}}").unwrap();
    let settings = settings.column(ColumnRole::Id, "n");
    let faulty = Prompts::open(&path, &settings, &Context::new(), &|_, _| {});
    let faulty = faulty.err().unwrap();
    assert!(faulty.message().contains("row 4: found "), "{faulty}");
}
