//! A JSON file that is one list: finds the ends of its elements. Their contents are read like a line of JSON.

use memchr::memchr2;

use super::fault::Fault;
use super::rows::{MAX_RECORD_BYTES, Record};

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The length of the element at the start of the bytes; `None` if it is incomplete. Brackets are only counted: a
/// closing bracket of another kind is found when the element is parsed.
pub(super) fn element_len(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => at += string_len(&bytes[at..])?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ if depth == 0 => {
                let ends = |b: &u8| is_space(*b) || matches!(b, b',' | b']' | b'"' | b'{' | b'[');
                at += 1 + bytes[at + 1..].iter().position(ends)?;
            }
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The length of the string at the start of the bytes, including its quotes.
fn string_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Start of the first element after a list's bracket or a comma, and its end.
pub(super) fn next_element(bytes: &[u8]) -> Option<(usize, usize)> {
    let gap = |byte: &u8| is_space(*byte) || *byte == b',';
    let start = bytes.iter().position(|byte| !gap(byte))?;
    let len = element_len(&bytes[start..])?;
    Some((start, start + len))
}

/// The position in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ArrayPosition {
    /// After the opening bracket.
    #[default]
    Opened,
    AfterElement,
    AfterComma,
    /// After the closing bracket.
    Closed,
}

/// Adds the complete elements of `bytes` to `out`, without line numbers, and returns the number of bytes read, or a
/// fault with its position.
pub(super) fn split(
    place: &mut ArrayPosition,
    bytes: &[u8],
    last: bool,
    out: &mut Vec<Record>,
) -> Result<usize, (usize, Fault)> {
    let mut at = 0;
    loop {
        at += bytes[at..]
            .iter()
            .take_while(|byte| is_space(**byte))
            .count();
        let fault = |found: &str, expected: &str| Err((at, Fault::new(found, expected)));
        let Some(&byte) = bytes.get(at) else {
            return if last && *place != ArrayPosition::Closed {
                fault(
                    "the end of the file",
                    "a closing bracket: the list is cut off",
                )
            } else {
                Ok(at)
            };
        };
        match (*place, byte) {
            (ArrayPosition::Closed, _) => {
                return fault(
                    "something behind the list",
                    "one list of objects and no other data",
                );
            }
            (ArrayPosition::Opened | ArrayPosition::AfterElement, b']') => {
                *place = ArrayPosition::Closed;
                at += 1;
            }
            (ArrayPosition::AfterElement, b',') => {
                *place = ArrayPosition::AfterComma;
                at += 1;
            }
            (ArrayPosition::AfterElement, _) => {
                return fault("no comma", "one between two elements");
            }
            (_, b',' | b']') => return fault("a comma too many", "an element"),
            _ => match element_len(&bytes[at..]) {
                Some(len) if len <= MAX_RECORD_BYTES => {
                    let (start, end, line) = (at, at + len, 0);
                    out.push(Record { start, end, line });
                    *place = ArrayPosition::AfterElement;
                    at = end;
                }
                None if last => {
                    return fault(
                        "an element that does not end",
                        "a whole list: it is cut off",
                    );
                }
                None if bytes.len() - at <= MAX_RECORD_BYTES => return Ok(at),
                _ => {
                    return fault(
                        "an element of more than 64 MiB",
                        "elements of at most 64 MiB",
                    );
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// The contents of a list that is read in pieces of this size, like a file.
    fn pieces(list: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, String> {
        let (mut place, mut found, mut rest) = (ArrayPosition::default(), Vec::new(), Vec::new());
        let mut chunks = list.chunks(piece.max(1)).peekable();
        loop {
            rest.extend_from_slice(chunks.next().unwrap_or_default());
            let last = chunks.peek().is_none();
            let mut records = Vec::new();
            let used = split(&mut place, &rest, last, &mut records);
            let used = used.map_err(|(_, fault)| fault.to_string())?;
            found.extend(records.iter().map(|r| rest[r.start..r.end].to_vec()));
            rest.drain(..used);
            if last {
                return Ok(found);
            }
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            r#"["\\\[\]{},\n]*"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".*", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn elements_are_found_wherever_the_bytes_are_cut(
            values in prop::collection::vec(value(), 0..6),
            pretty: bool,
            piece in 1..40_usize,
        ) {
            let list = if pretty { serde_json::to_string_pretty(&values) } else { serde_json::to_string(&values) };
            let list = list.unwrap() + "\r\n";
            let found = pieces(&list.as_bytes()[1..], piece).unwrap();
            let found: Vec<Value> =
                found.iter().map(|bytes| serde_json::from_slice(bytes).unwrap()).collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn any_bytes_end_in_elements_or_a_fault(
            bytes in prop::collection::vec(prop_oneof![
                any::<u8>(),
                prop::sample::select(b"[]{},:\"\\ \n0".to_vec()),
            ], 0..80),
            piece in 1..20_usize,
        ) {
            let whole = pieces(&bytes, usize::MAX);
            prop_assert_eq!(&pieces(&bytes, piece).is_ok(), &whole.is_ok());
            if let Ok(found) = whole {
                prop_assert_eq!(pieces(&bytes, piece).unwrap(), found);
                prop_assert_eq!(bytes.iter().rfind(|b| !is_space(**b)), Some(&b']'));
            }
            // The function accepts the same lists as serde.
            let list = [b"[", &bytes[..]].concat();
            if serde_json::from_slice::<Vec<Value>>(&list).is_ok() {
                prop_assert!(pieces(&bytes, piece).is_ok());
            }
        }
    }

    #[test]
    fn errors_of_an_invalid_list_have_a_position() {
        for (list, found) in [
            ("", "the end of the file"),
            ("{}", "the end of the file"),
            ("{},", "the end of the file"),
            ("{", "an element that does not end"),
            ("{\"a\":\"]", "an element that does not end"),
            (",{}]", "a comma too many"),
            ("{},,{}]", "a comma too many"),
            ("{},]", "a comma too many"),
            ("{}{}]", "no comma"),
            ("{}] []", "something behind the list"),
        ] {
            let fault = pieces(list.as_bytes(), usize::MAX).unwrap_err();
            assert!(
                fault.starts_with(&format!("found {found};")),
                "{list}: {fault}"
            );
        }
    }
}
