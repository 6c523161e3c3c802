//! Foreign texts for people: servers choose the names of models, the states of batches and the texts of errors, which
//! could contain control sequences for a terminal.

/// A text in which control characters and marks that change the direction of writing are shown by their escapes, but for
/// line ends. Every foreign text and every name for people passes through here or through [`one_line`]; results and JSON
/// contain it unchanged.
pub fn harmless(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(one_line).collect();
    lines.join("\n")
}

/// As [`harmless`], for a name, or another text in which nobody may begin a line.
pub fn one_line(text: &str) -> String {
    shortened(text, usize::MAX)
}

/// As [`one_line`], cut if it is long.
pub fn shortened(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut left = most;
    for c in text.chars() {
        let escape = (c.is_control() || is_unseen(c)).then(|| c.escape_default().to_string());
        let len = escape.as_ref().map_or(1, String::len);
        if len > left {
            out.push('…');
            break;
        }
        left -= len;
        match escape {
            Some(escape) => out.push_str(&escape),
            None => out.push(c),
        }
    }
    out
}

/// Invisible characters that change how the text around them is shown: its direction or its lines.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// JSON with such characters escaped: equal for programs, and harmless for a terminal.
pub fn json(value: &impl std::fmt::Display) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '\n' => out.push(c),
            _ if c.is_control() || is_unseen(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_texts_cannot_control_the_terminal() {
        let evil = "a\x1b[2Jb\r\nc\u{9b}31md\u{202e}e\u{2066}f\u{feff}ü\t👩\u{200d}🔬";
        let line = "a\\u{1b}[2Jb\\r\\nc\\u{9b}31md\\u{202e}e\\u{2066}f\\u{feff}ü\\t👩\u{200d}🔬";
        assert_eq!(one_line(evil), line);
        assert_eq!(harmless(evil), line.replacen("\\n", "\n", 1));
        assert_eq!(shortened(evil, 9), "a\\u{1b}[2…");
        assert_eq!(shortened(evil, 3), "a…");
        assert_eq!(shortened("abc", 3), "abc");
        let value = serde_json::json!({ "model": evil });
        let written = json(&value);
        assert!(
            !written.chars().any(|c| c.is_control() || is_unseen(c)),
            "{written}"
        );
        let read: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(read, value);
        let plain = serde_json::json!({ "model": "qwen:7b", "why": "a \"b\"\n" });
        assert_eq!(json(&plain), plain.to_string());
    }
}
