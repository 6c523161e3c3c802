//! Files that other programs write, read back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray,
    FixedLenByteArrayType, FloatType, Int32Type, Int64Type, Int96, Int96Type,
};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use rust_xlsxwriter::{ExcelDateTime, Format, Formula, Workbook, XlsxError};

use super::*;

/// Each row as a JSON list, with the names of the columns first.
#[derive(Default)]
struct Lines(Vec<String>, u64);

impl Rows for Lines {
    fn columns(&mut self, names: &[String], before: u64) -> Result<(), Error> {
        self.0.push(serde_json::to_string(names).unwrap());
        self.1 = before;
        Ok(())
    }

    fn row(&mut self, values: &[Value]) -> Result<(), Error> {
        self.0.push(match values {
            [] => String::new(),
            values => serde_json::to_string(values).unwrap(),
        });
        Ok(())
    }
}

fn sheet(path: &Path, name: Option<&str>) -> Result<(Vec<String>, u64), String> {
    let mut lines = Lines::default();
    let read = read_sheet(path, name, &mut lines);
    read.map(|()| (lines.0, lines.1))
        .map_err(|error| error.to_string())
}

fn parquet(path: &Path) -> Result<Vec<String>, String> {
    let mut lines = Lines::default();
    let read = read_parquet(path, &mut lines);
    read.map(|()| lines.0).map_err(|error| error.to_string())
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    (folder, path)
}

fn workbook(path: &Path) -> Result<(), XlsxError> {
    let mut book = Workbook::new();
    let sheet = book.add_worksheet().set_name("First")?;
    let formats = ["yyyy-mm-dd", "yyyy-mm-dd hh:mm", "hh:mm:ss"];
    let [day, both, clock] = formats.map(|format| Format::new().set_num_format(format));
    for (i, name) in ["id", " text ", "day", "", "n", "yes"].iter().enumerate() {
        sheet.write_string(2, i as u16, *name)?;
    }
    sheet
        .write_string(3, 0, "007")?
        .write_string(3, 1, "=cmd()\r\nx")?;
    sheet.write_datetime_with_format(3, 2, ExcelDateTime::from_ymd(2024, 5, 1)?, &day)?;
    sheet.write_number(3, 4, 3.0)?.write_boolean(3, 5, true)?;
    // Row 5 is empty; row 6 has a note in another column, and a formula with its value.
    sheet.write_number(5, 0, 8)?.write_string(5, 3, "note")?;
    let noon = ExcelDateTime::from_ymd(2024, 5, 1)?.and_hms(12, 30, 0)?;
    sheet.write_datetime_with_format(5, 2, noon, &both)?;
    sheet.write_number(5, 4, 0.1)?;
    sheet.write_formula(5, 1, Formula::new("=1+1").set_result("2"))?;
    sheet.write_datetime_with_format(6, 2, ExcelDateTime::from_hms(9, 5, 0)?, &clock)?;
    // Formulas that the author of the form has entered, without a value so far.
    let prefilled = || Formula::new("=IF(A8=\"\",\"\",1)").set_result(" ");
    sheet.write_formula(6, 1, prefilled())?;
    sheet.write_formula(7, 1, prefilled())?;
    sheet.write_formula(7, 6, prefilled())?;
    let error = Formula::new("=1/0").set_result("#DIV/0!");
    sheet.write_formula(6, 4, error)?;
    // A number that is not a date.
    sheet.write_number_with_format(6, 0, 2_958_466.0, &day)?;
    book.add_worksheet().set_name("Empty")?;
    let wide = book.add_worksheet().set_name("Wide")?;
    wide.write_string(0, 0, "id")?.write_string(1, 1, "note")?;
    book.save(path)
}

#[test]
fn rows_of_a_worksheet_keep_their_numbers() {
    let (_folder, path) = place();
    let path = path.with_extension("xlsx");
    workbook(&path).unwrap();
    let (rows, before) = sheet(&path, None).unwrap();
    let expected = [
        r#"["id","text","day","","n","yes"]"#,
        r#"["007","=cmd()\r\nx","2024-05-01",null,3,true]"#,
        "",
        r#"[8,2,"2024-05-01T12:30:00","note",0.1,null]"#,
        r#"[2958466," ","09:05:00",null,null,null]"#,
        "",
    ];
    assert_eq!((rows, before), (expected.map(str::to_owned).to_vec(), 3));
    let sheet = |name: &str| sheet(&path, Some(name));
    assert_eq!(sheet("First").unwrap().0, expected);
    for (name, said) in [
        ("Wide", "found a value in B2, whose column has no name"),
        ("Empty", "found no cells in the sheet \"Empty\""),
        (
            "first",
            "found no sheet \"first\"; expected one of \"First\", \"Empty\", \"Wide\"",
        ),
    ] {
        let why = sheet(name).unwrap_err();
        assert!(why.contains(said), "{why}");
    }
}

/// A Parquet file of this schema, with the groups of rows that `write` writes.
fn parquet_of(
    schema: &str,
    write: impl FnOnce(&mut SerializedFileWriter<std::fs::File>),
) -> (tempfile::TempDir, PathBuf) {
    let (folder, path) = place();
    let path = path.with_extension("parquet");
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    write(&mut writer);
    writer.close().unwrap();
    (folder, path)
}

/// A column without nulls; lists begin where the repetition is 0.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, std::fs::File>,
    values: &[T::T],
    levels: Option<(&[i16], &[i16])>,
) {
    let mut column = group.next_column().unwrap().unwrap();
    let (definitions, repetitions) = levels.unzip();
    let writer = column.typed::<T>();
    writer
        .write_batch(values, definitions, repetitions)
        .unwrap();
    column.close().unwrap();
}

#[test]
fn column_types_are_converted_as_expected() {
    let schema = "message schema {
        REQUIRED INT64 n;
        REQUIRED BYTE_ARRAY text (UTF8);
        REQUIRED BYTE_ARRAY raw;
        REQUIRED DOUBLE x;
        REQUIRED FLOAT f;
        REQUIRED BOOLEAN b;
        REQUIRED INT32 day (DATE);
        REQUIRED INT64 nanos (TIMESTAMP(NANOS,false));
        REQUIRED INT64 micros (TIMESTAMP(MICROS,true));
        REQUIRED INT64 clock (TIME(MICROS,true));
        REQUIRED INT64 price (DECIMAL(10,2));
        REQUIRED FIXED_LEN_BYTE_ARRAY(16) key (UUID);
        OPTIONAL GROUP tags (LIST) { REPEATED GROUP list { OPTIONAL BYTE_ARRAY element (UTF8); } }
        REQUIRED GROUP point { REQUIRED INT32 a; REQUIRED INT64 at (TIMESTAMP(NANOS,false)); }
    }";
    let (_folder, path) = parquet_of(schema, |writer| {
        let mut group = writer.next_row_group().unwrap();
        let bytes = |all: [&[u8]; 2]| all.map(|text| ByteArray::from(text.to_vec()));
        column::<Int64Type>(&mut group, &[i64::MAX, -1], None);
        column::<ByteArrayType>(&mut group, &bytes([b"a \"b\"\n", b""]), None);
        column::<ByteArrayType>(&mut group, &bytes([b"old text", b"\xff\x00"]), None);
        column::<DoubleType>(&mut group, &[3.0, f64::NAN], None);
        column::<FloatType>(&mut group, &[0.1, f32::INFINITY], None);
        column::<BoolType>(&mut group, &[true, false], None);
        column::<Int32Type>(&mut group, &[19_844, -1], None);
        column::<Int64Type>(&mut group, &[1_714_566_600_000_000_001, 0], None);
        column::<Int64Type>(&mut group, &[1_714_566_600_500_000, 0], None);
        column::<Int64Type>(&mut group, &[3_600_000_000, 0], None);
        column::<Int64Type>(&mut group, &[1250, -5], None);
        let keys = [[0x11_u8; 16], [0; 16]];
        let keys = keys.map(|key| FixedLenByteArray::from(key.to_vec()));
        column::<FixedLenByteArrayType>(&mut group, &keys, None);
        let tags = bytes([b"x", b"y"]);
        column::<ByteArrayType>(&mut group, &tags, Some((&[3, 2, 3, 0], &[0, 1, 1, 0])));
        column::<Int32Type>(&mut group, &[7, 8], None);
        column::<Int64Type>(&mut group, &[0, 1], None);
        group.close().unwrap();
    });
    let rows = parquet(&path).unwrap();
    let expected = [
        r#"["n","text","raw","x","f","b","day","nanos","micros","clock","price","key","tags","point"]"#,
        r#"[9223372036854775807,"a \"b\"\n","old text",3.0,0.1,true,"2024-05-01","2024-05-01T12:30:00.000000001","2024-05-01T12:30:00.5Z","01:00:00",12.50,"11111111-1111-1111-1111-111111111111",["x",null,"y"],{"a":7,"at":"1970-01-01T00:00:00"}]"#,
        r#"[-1,"","/wA=",null,"inf",false,"1969-12-31","1970-01-01T00:00:00","1970-01-01T00:00:00Z","00:00:00",-0.05,"00000000-0000-0000-0000-000000000000",null,{"a":8,"at":"1970-01-01T00:00:00.000000001"}]"#,
    ];
    assert_eq!(rows, expected);
}

#[test]
fn times_of_96_bits_and_whole_decimals_keep_their_digits() {
    let schema = "message schema {
        REQUIRED GROUP point { REQUIRED INT32 a; }
        OPTIONAL INT96 at;
        REQUIRED INT64 whole (DECIMAL(10,0));
        OPTIONAL INT96 empty;
    }";
    let (_folder, path) = parquet_of(schema, |writer| {
        let time = |nanos: u64, day| Int96::from(vec![nanos as u32, (nanos >> 32) as u32, day]);
        let last = 86_399_999_999_999;
        for times in [
            [time(1, 2_440_588), time(last, 2_440_587)],
            [time(0, 2_460_432), time(1000, 0)],
        ] {
            let mut group = writer.next_row_group().unwrap();
            column::<Int32Type>(&mut group, &[1, 2, 3], None);
            column::<Int96Type>(&mut group, &times, Some((&[1, 0, 1], &[0, 0, 0])));
            column::<Int64Type>(&mut group, &[0, 123, -5], None);
            column::<Int96Type>(&mut group, &[], Some((&[0, 0, 0], &[0, 0, 0])));
            group.close().unwrap();
        }
    });
    let rows = parquet(&path).unwrap();
    let expected = [
        r#"["point","at","whole","empty"]"#,
        r#"[{"a":1},"1970-01-01T00:00:00.000000001",0,null]"#,
        r#"[{"a":2},null,123,null]"#,
        r#"[{"a":3},"1969-12-31T23:59:59.999999999",-5,null]"#,
        r#"[{"a":1},"2024-05-01T00:00:00",0,null]"#,
        r#"[{"a":2},null,123,null]"#,
        r#"[{"a":3},"-4713-11-24T00:00:00.000001",-5,null]"#,
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_column_that_cannot_be_read_is_named() {
    let schema = "message schema {
        REQUIRED INT64 n;
        REQUIRED GROUP times { REQUIRED FIXED_LEN_BYTE_ARRAY(12) took (INTERVAL); }
    }";
    let (_folder, path) = parquet_of(schema, |writer| {
        let mut group = writer.next_row_group().unwrap();
        column::<Int64Type>(&mut group, &[7], None);
        let took = FixedLenByteArray::from(vec![1; 12]);
        column::<FixedLenByteArrayType>(&mut group, &[took], None);
        group.close().unwrap();
    });
    let why = parquet(&path).unwrap_err();
    let named =
        r#"found the column "times.took" of type INTERVAL, which cannot be read; leave it out"#;
    assert!(why.contains(named), "{why}");
}

#[test]
fn empty_rows_are_blank_lines() {
    let schema = "message schema { OPTIONAL INT64 n; OPTIONAL BYTE_ARRAY text (UTF8); }";
    let (_folder, path) = parquet_of(schema, |writer| {
        let mut group = writer.next_row_group().unwrap();
        column::<Int64Type>(&mut group, &[7], Some((&[0, 0, 1], &[0, 0, 0])));
        let texts = ["", " "].map(|text| ByteArray::from(text.as_bytes().to_vec()));
        column::<ByteArrayType>(&mut group, &texts, Some((&[1, 0, 1], &[0, 0, 0])));
        group.close().unwrap();
    });
    let rows = parquet(&path).unwrap();
    assert_eq!(rows, [r#"["n","text"]"#, "", "", r#"[7," "]"#]);
}
