//! Rewrites Python code that is valid but that the grammar rejects.

/// A text of the same length, with all names at the same positions, for code that Python accepts and the grammar
/// rejects: a line break within brackets before which no bracket may close (`(a.⏎b)`) becomes a blank, a single
/// carriage return becomes a line end, and `from __future__ import *` imports another module.
pub(super) fn mended(text: &str) -> Vec<u8> {
    let mut out = text.as_bytes().to_vec();
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(&byte) = out.get(at) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'\n' | b'\r' if depth > 0 => out[at] = b' ',
            b'\r' if out.get(at + 1) != Some(&b'\n') => out[at] = b'\n',
            // A backslash continues the line.
            b'\\' => at += 1,
            b'#' => {
                while out
                    .get(at)
                    .is_some_and(|byte| !matches!(byte, b'\n' | b'\r'))
                {
                    if depth > 0 {
                        out[at] = b' ';
                    }
                    at += 1;
                }
                continue;
            }
            b'\'' | b'"' => {
                at = string_end(&out, at);
                continue;
            }
            b'_' if out[at..].starts_with(b"__future__") => out[at + 2] = b'F',
            _ => {}
        }
        at += 1;
    }
    out
}

/// The text after the string that a quote begins. A backslash before a quote keeps the string open, also in raw
/// strings.
fn string_end(text: &[u8], start: usize) -> usize {
    let quote = text[start];
    let triple = text[start..].starts_with(&[quote; 3]);
    let mut at = start + if triple { 3 } else { 1 };
    while let Some(&byte) = text.get(at) {
        match byte {
            b'\\' => at += 1,
            b'\n' | b'\r' if !triple => return at,
            _ if byte == quote && !triple => return at + 1,
            _ if byte == quote && text[at..].starts_with(&[quote; 3]) => return at + 3,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_the_grammar_rejects_is_rewritten() {
        let mended = |text: &str| String::from_utf8(mended(text)).unwrap();
        assert_eq!(
            mended("x = (a. # )\n b)\ny # (\nz"),
            "x = (a.      b)\ny # (\nz"
        );
        assert_eq!(mended("s = '(' + \"\\\"(\"\nt"), "s = '(' + \"\\\"(\"\nt");
        assert_eq!(mended("['''\n(''',\n]"), "['''\n(''', ]");
        assert_eq!(mended("a\rb\r\n"), "a\nb\r\n");
        assert_eq!(
            mended("from __future__ import *"),
            "from __Future__ import *"
        );
        assert_eq!(mended("'never closed\n("), "'never closed\n(");
    }
}
