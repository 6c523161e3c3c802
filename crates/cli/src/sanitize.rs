//! Foreign texts for people: servers choose the names of models, the states of batches and the texts of errors, which
//! could contain control sequences for a terminal.

/// A text without control characters and marks that change the direction of writing. Every foreign text for people
/// passes through here or through [`one_line`]; results and JSON contain it unchanged.
pub fn harmless(text: &str) -> String {
    let shown = |c| if c == '\n' { c } else { harmless_char(c) };
    text.chars().map(shown).collect()
}

/// As [`harmless`], for a name or another text that must stay on one line.
pub fn one_line(text: &str) -> String {
    // Most names are plain ASCII, and a table may have thousands of them.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    text.chars().map(harmless_char).collect()
}

pub fn harmless_char(c: char) -> char {
    match c {
        _ if c.is_control() => ' ',
        _ if is_unseen(c) => char::REPLACEMENT_CHARACTER,
        _ => c,
    }
}

/// Invisible characters that change how the text around them is shown: its direction or its lines.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text on one line, in which such characters are shown by their escapes: nobody else can begin a line of the log.
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            _ if c.is_control() || is_unseen(c) => out.extend(c.escape_default()),
            _ => out.push(c),
        }
    }
    out
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

/// A text on one line, cut if it is long.
pub fn shortened(text: &str, most: usize) -> String {
    let mut out: String = text.chars().take(most).map(harmless_char).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_texts_cannot_control_the_terminal() {
        let evil = "a\x1b[2Jb\r\nc\u{9b}31md\u{202e}e\u{2066}f\u{feff}ü\t👩\u{200d}🔬";
        let line = one_line(evil);
        assert_eq!(
            line,
            "a [2Jb  c 31md\u{fffd}e\u{fffd}f\u{fffd}ü 👩\u{200d}🔬"
        );
        assert_eq!(harmless(evil), line.replacen("  ", " \n", 1));
        assert_eq!(shortened(evil, 3), "a […");
        assert_eq!(
            escaped(evil),
            "a\\u{1b}[2Jb\\r\\nc\\u{9b}31md\\u{202e}e\\u{2066}f\\u{feff}ü\\t👩\u{200d}🔬"
        );
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
