//! Writes strings as JSON, and bytes as digits. serde_json checks each byte separately, which takes ten times as long. Speed matters
//! here: each prompt is written once for its hash and once for its request, and each answer for its line.

/// Bytes that are checked together.
const CHUNK: usize = 32;

/// Appends a text as a JSON string, with the escapes of serde_json: the short forms, else `\u00xx` in lower case.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    if has_special(text.as_bytes()) {
        let (chunks, rest) = text.as_bytes().as_chunks::<CHUNK>();
        chunks.iter().for_each(|chunk| write_piece(chunk, out));
        write_piece(rest, out);
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
}

/// Appends the name of a field, after a comma if the object has a field already.
pub(crate) fn write_name(name: &str, out: &mut Vec<u8>) {
    if !out.ends_with(b"{") {
        out.push(b',');
    }
    write_string(name, out);
    out.push(b':');
}

/// Appends a field of an object.
pub(crate) fn write_field(
    out: &mut Vec<u8>,
    name: &str,
    value: &impl serde::Serialize,
) -> serde_json::Result<()> {
    write_name(name, out);
    serde_json::to_writer(out, value)
}

/// Sets a field of an object if it has a value.
pub(crate) fn set(
    fields: &mut serde_json::Map<String, serde_json::Value>,
    name: &str,
    value: Option<impl Into<serde_json::Value>>,
) {
    if let Some(value) = value {
        fields.insert(name.to_owned(), value.into());
    }
}

#[inline]
fn write_piece(piece: &[u8], out: &mut Vec<u8>) {
    if has_special(piece) {
        write_bytes(piece, out);
    } else {
        out.extend_from_slice(piece);
    }
}

/// Without branches, so that the compiler checks many bytes at once.
#[inline]
fn has_special(bytes: &[u8]) -> bool {
    let is_special = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    let bytes = bytes.iter();
    bytes.fold(false, |any, byte| any | is_special(*byte))
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(*byte),
        }
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS[usize::from(value)];
    let pairs = bytes
        .iter()
        .map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    let digits: Vec<[u8; 2]> = pairs.collect();
    String::from_utf8(digits.into_flattened()).expect("digits are UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_by_serde_json_at_any_place() {
        for place in [0, 1, CHUNK - 1, CHUNK, 2 * CHUNK - 2, 2 * CHUNK] {
            for special in (0..=0x7f).map(char::from).chain(['é', '€', '😀']) {
                let text = format!("{}{special}{}", "x".repeat(place), "y".repeat(CHUNK));
                let mut out = b"before".to_vec();
                write_string(&text, &mut out);
                let expected = format!("before{}", serde_json::to_string(&text).unwrap());
                assert_eq!(String::from_utf8(out).unwrap(), expected);
            }
        }
    }
}
