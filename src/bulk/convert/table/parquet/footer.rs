//! Checks the footer of a Parquet file before the reader decodes it: the reader recurses for each level of the schema,
//! and allocates memory for as many elements as are declared.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::thrift::{BINARY, Compact, I32, LIST, STRUCT, damaged};

/// Maximum size of a footer. In memory it takes up to 25 times as much.
const MOST_BYTES: u64 = 16 << 20;
/// Maximum number of columns, including groups: as many as a worksheet has.
const MOST_ELEMENTS: u64 = 16_384;
/// Maximum nesting of groups.
const MOST_DEPTH: usize = 64;
/// Maximum number of bytes in the names of all columns, each with the names of its groups.
const MOST_NAMES: u64 = 64 << 20;

/// The length and the mark at the end of a file.
const TAIL: u64 = 8;

/// Checks sizes and nesting of the footer.
pub(super) fn check(mut file: &File) -> io::Result<()> {
    let len = file.metadata()?.len();
    let tail_at = len.checked_sub(TAIL).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(tail_at))?;
    file.read_exact(&mut tail)?;
    let size = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]).into();
    let start = tail_at
        .checked_sub(size)
        .ok_or_else(|| damaged("its footer is longer than the file"))?;
    if size > MOST_BYTES {
        return Err(damaged(format!(
            "its footer has {size} bytes; expected at most {} MiB",
            MOST_BYTES >> 20
        )));
    }
    file.seek(SeekFrom::Start(start))?;
    let mut footer = Vec::new();
    file.take(size).read_to_end(&mut footer)?;
    check_bytes(&footer)
}

fn check_bytes(footer: &[u8]) -> io::Result<()> {
    let mut has_schema = false;
    Compact::new(footer).fields(&mut |walk, id, kind| match (id, kind) {
        (2, LIST) if !has_schema => {
            has_schema = true;
            schema(walk).map(|()| true)
        }
        (2, _) => Err(damaged("its footer has no schema, or several")),
        // Row groups, and keys with values: in memory each is much larger than its minimum size here.
        (4, LIST) => elements(walk, 10).map(|()| true),
        (5, LIST) => elements(walk, 3).map(|()| true),
        (4 | 5, _) => Err(damaged("its footer has a value of the wrong type")),
        _ => Ok(false),
    })
}

/// Reads a list whose elements have at least this number of bytes on average.
fn elements(walk: &mut Compact<&[u8]>, least: u64) -> io::Result<()> {
    let (kind, count) = walk.list()?;
    let start = walk.read;
    for _ in 0..count {
        walk.skip_element(kind)?;
    }
    if walk.read - start < count * least {
        Err(damaged(format!(
            "its footer has {count} elements in too few bytes"
        )))
    } else {
        Ok(())
    }
}

/// An open group: the number of remaining children, and the bytes in the names down to it.
struct Group {
    left: u64,
    names: u64,
}

/// Reads the schema, a list of the tree's nodes in depth-first order.
fn schema(walk: &mut Compact<&[u8]>) -> io::Result<()> {
    let (kind, count) = walk.list()?;
    if kind != STRUCT {
        return Err(damaged("its schema has elements of the wrong type"));
    }
    if count > MOST_ELEMENTS {
        return Err(damaged(format!(
            "its schema has {count} columns and groups; expected at most {MOST_ELEMENTS}"
        )));
    }
    let mut open: Vec<Group> = Vec::new();
    let mut all_names = 0;
    for i in 0..count {
        let (name, children) = element(walk)?;
        let (within, parent) = match open.last_mut() {
            Some(parent) => (parent.names, Some(parent)),
            None => (0, None),
        };
        match parent {
            Some(parent) => parent.left -= 1,
            None if i == 0 => {}
            None => return Err(damaged("its schema has columns outside of the table")),
        }
        let names = within + name;
        if children > 0 {
            let left = children;
            open.push(Group { left, names });
        } else {
            all_names += names;
        }
        if open.len() > MOST_DEPTH {
            return Err(damaged(format!(
                "its schema is nested more than {MOST_DEPTH} levels deep"
            )));
        }
        if children > count || all_names > MOST_NAMES {
            return Err(damaged(
                "its schema has more columns, or longer names, than the footer has room for",
            ));
        }
        while open.last().is_some_and(|group| group.left == 0) {
            open.pop();
        }
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(damaged("its schema has groups without their columns"))
    }
}

/// The length of a node's name, and the number of its children.
fn element(walk: &mut Compact<&[u8]>) -> io::Result<(u64, u64)> {
    let (mut name, mut children) = (0, 0);
    walk.fields(&mut |walk, id, kind| {
        match (id, kind) {
            (4, BINARY) => name += walk.binary()?,
            (5, I32) => {
                let count = u64::try_from(walk.i32()?);
                children = count.map_err(|_| damaged("its schema has a negative count"))?;
            }
            (4 | 5, _) => return Err(damaged("its schema has a value of the wrong type")),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((name, children))
}
