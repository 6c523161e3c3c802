//! Workbooks that need more resources than their size suggests.

use std::io::{Cursor, Write};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

const RELATION: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";

fn archive(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in parts {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A workbook with one sheet, `S`.
fn book(strings: &str, sheet: &str) -> Vec<u8> {
    let relation = |kind: &str, target: &str| {
        format!(
            "<Relationships><Relationship Id=\"r1\" Type=\"{RELATION}/{kind}\" Target=\"{target}\"/>\
             </Relationships>"
        )
    };
    archive(&[
        (
            "_rels/.rels",
            &relation("officeDocument", "xl/workbook.xml"),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            &relation("worksheet", "worksheets/sheet1.xml"),
        ),
        (
            "xl/workbook.xml",
            "<workbook><sheets><sheet name=\"S\" sheetId=\"1\" r:id=\"r1\"/></sheets></workbook>",
        ),
        ("xl/sharedStrings.xml", strings),
        (
            "xl/worksheets/sheet1.xml",
            &format!("<worksheet>{sheet}</worksheet>"),
        ),
    ])
}

fn found_with(bytes: &[u8], settings: &PromptSettings) -> Result<Vec<String>, String> {
    let (_folder, path) = place();
    let path = path.with_extension("xlsx");
    std::fs::write(&path, bytes).unwrap();
    lines(&path, settings).map(|(lines, _)| lines)
}

fn found(bytes: &[u8]) -> Result<Vec<String>, String> {
    found_with(bytes, &PromptSettings::default())
}

/// Rows of references to the first shared string, below a header row of numbers.
fn references(rows: usize, columns: usize) -> String {
    let header = "<c><v>1</v></c>".repeat(columns);
    let row = format!("<row>{}</row>", "<c t=\"s\"><v>0</v></c>".repeat(columns));
    format!(
        "<sheetData><row>{header}</row>{}</sheetData>",
        row.repeat(rows)
    )
}

fn strings(count: &str, text: &str) -> String {
    format!("<sst uniqueCount=\"{count}\"><si><t>{text}</t></si></sst>")
}

#[test]
fn one_text_in_many_cells_does_not_fill_memory_or_the_disk() {
    let plain = book(&strings("1", "text"), &references(1, 2));
    assert_eq!(
        found(&plain).unwrap(),
        ["[\"1\",\"1\"]", "[\"text\",\"text\"]"]
    );
    let long = "x".repeat(1 << 20);
    let why = found(&book(&strings("1", &long), &references(1, 65))).unwrap_err();
    assert!(
        why.ends_with("row 2 has more than 64 MiB; expected at most 64 MiB"),
        "{why}"
    );
    let settings = PromptSettings {
        max_unpacked: Some(5 << 20),
        ..PromptSettings::default()
    };
    let many = book(&strings("1", &long), &references(5, 1));
    let why = found_with(&many, &settings).unwrap_err();
    let said = "its unpacked or converted size exceeds 5 MiB, the limit of --max-unpacked; nothing was sent";
    assert!(why.ends_with(said), "{why}");
    let small = PromptSettings {
        max_unpacked: Some(1 << 20),
        ..PromptSettings::default()
    };
    let why = found_with(&many, &small).unwrap_err();
    assert!(
        why.ends_with("its unpacked size exceeds 1 MiB, the limit of --max-unpacked"),
        "{why}"
    );
}

#[test]
fn the_header_is_bounded_as_well() {
    let header = "<c t=\"s\"><v>0</v></c>".repeat(65);
    let sheet = format!("<sheetData><row>{header}</row></sheetData>");
    let why = found(&book(&strings("1", &"x".repeat(1 << 20)), &sheet)).unwrap_err();
    assert!(
        why.ends_with("a header has more than 64 MiB; expected at most 64 MiB"),
        "{why}"
    );
}

#[test]
fn sizes_that_are_only_declared_cause_no_crash() {
    let one = references(1, 1);
    for count in [
        "999999999999999",
        "1152921504606846976",
        "99999999999999999999999999",
    ] {
        let why = found(&book(&strings(count, "text"), &one)).unwrap_err();
        assert!(
            why.contains("xl/sharedStrings.xml has a number of shared strings above"),
            "{why}"
        );
    }
    for cells in [
        "<dimension ref=\"B2:A1\"/><sheetData><row><c><v>1</v></c></row></sheetData>",
        "<sheetData><row><c r=\"ZZZZZZZZZZZ1\"><v>1</v></c></row></sheetData>",
        "<sheetData><row r=\"99999999999999\"><c><v>1</v></c></row></sheetData>",
        "<sheetData><row><c r=\"A1048577\"><v>1</v></c></row></sheetData>",
    ] {
        match found(&book(&strings("1", "text"), cells)) {
            Ok(lines) => assert!(lines.len() < 3, "{cells}"),
            Err(why) => assert!(why.contains("cannot be read: "), "{why}"),
        }
    }
}

#[test]
fn the_directory_of_the_archive_is_checked() {
    let parts = archive(&[("one.xml", "<a/>"), ("two.xml", "<b/>")]);
    let at = |text: &[u8]| {
        let mut places = parts
            .windows(text.len())
            .enumerate()
            .filter(|(_, part)| *part == text);
        places.next_back().unwrap().0
    };
    let mut same = parts.clone();
    let [one, two] = [at(b"one.xml"), at(b"two.xml")];
    same[two..two + 7].copy_from_slice(b"one.xml");
    let why = found(&same).unwrap_err();
    assert!(
        why.contains("several of its parts have the same name"),
        "{why}"
    );
    // The offset of the second part is stored four bytes before its name.
    let mut overlapping = parts.clone();
    overlapping.copy_within(one - 4..one, two - 4);
    let why = found(&overlapping).unwrap_err();
    assert!(why.contains("its parts overlap"), "{why}");
}

#[test]
fn images_are_parsed_as_xml_only_if_the_workbook_names_one_as_a_sheet() {
    let evil = format!("<!x>{}", "<\u{1}>".repeat(400));
    let plain = book("<sst><si><t>a</t></si></sst>", &references(1, 1));
    let mut zip = ZipWriter::new_append(Cursor::new(plain)).unwrap();
    zip.start_file("xl/media/Image1.PNG", SimpleFileOptions::default())
        .unwrap();
    zip.write_all(evil.as_bytes()).unwrap();
    let with_picture = zip.finish().unwrap().into_inner();
    assert_eq!(found(&with_picture).unwrap(), ["[\"1\"]", "[\"a\"]"]);

    for target in ["media/image1.png", "media/image1.p&#110;g"] {
        let named = archive(&[
            (
                "xl/_rels/workbook.xml.rels",
                &format!(
                    "<Relationships><Relationship Id=\"r1\" Target=\"{target}\"/></Relationships>"
                ),
            ),
            (
                "xl/workbook.xml",
                "<workbook><sheets><sheet name=\"S\" sheetId=\"1\" r:id=\"r1\"/></sheets></workbook>",
            ),
            ("xl/media/image1.png", &evil),
        ]);
        let why = found(&named).unwrap_err();
        assert!(why.contains("its part xl/media/image1.png has"), "{why}");
    }
}

#[test]
fn a_number_that_is_not_a_date_stays_a_number() {
    let book_of_dates = |numbers: &[&str]| {
        let rows: String = numbers
            .iter()
            .map(|number| format!("<row><c s=\"1\"><v>{number}</v></c></row>"))
            .collect();
        let sheet = format!("<sheetData><row><c><v>1</v></c></row>{rows}</sheetData>");
        let mut zip = ZipWriter::new_append(Cursor::new(book("<sst/>", &sheet))).unwrap();
        zip.start_file("xl/styles.xml", SimpleFileOptions::default())
            .unwrap();
        let styles =
            "<styleSheet><cellXfs><xf numFmtId=\"0\"/><xf numFmtId=\"14\"/></cellXfs></styleSheet>";
        zip.write_all(styles.as_bytes()).unwrap();
        found(&zip.finish().unwrap().into_inner()).unwrap()
    };
    let lines = book_of_dates(&["45413", "2958466", "1e308", "-5", "NaN", "2958465"]);
    let expected = [
        "[\"1\"]",
        "[\"2024-05-01\"]",
        "[2958466]",
        "[1e+308]",
        "[-5]",
        "",
        "[\"9999-12-31\"]",
    ];
    assert_eq!(lines, expected);
}
