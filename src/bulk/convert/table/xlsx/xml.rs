//! Measures the texts and tags of XML in one pass, without storing them.

use memchr::memchr;

/// Maximum nesting of elements.
const MOST_DEPTH: u64 = 256;
/// The number of bytes of a tag that are checked.
const TAG_START: usize = 1 << 12;
/// Memory of an element in addition to its text: a string, a style, or another one, such as a color.
const STRING: u64 = 64;
const STYLE: u64 = 512;
const OTHER: u64 = 16;
/// Memory that is reserved for each declared shared string.
const DECLARED: u64 = 24;

/// Limits for all parts of a workbook together.
pub(super) struct Bounds {
    /// Maximum number of bytes of a cell, and of a text or tag anywhere else.
    most_cell: u64,
    most_held: u64,
    /// The bytes that the reader will hold in memory.
    held: u64,
    /// The longest name that is copied, and the number of elements with such copies.
    longest: u64,
    copies: u64,
}

impl Bounds {
    pub(super) fn new(most_cell: u64, most_held: u64) -> Self {
        Self {
            most_cell,
            most_held,
            held: 0,
            longest: 0,
            copies: 0,
        }
    }

    fn check(&self) -> Result<(), String> {
        let copied = self.longest.saturating_mul(self.copies);
        if self.held.saturating_add(copied) > self.most_held {
            Err(format!(
                "texts and styles that take more memory than this file may use, {} MiB",
                self.most_held >> 20
            ))
        } else {
            Ok(())
        }
    }
}

/// The position of the next byte in the XML syntax.
#[derive(Clone, Copy)]
enum At {
    Text,
    /// In a tag, and in a value between these quotes.
    Tag(Option<u8>),
    /// After `<!`.
    Declaration,
    /// In a section that ends with these bytes.
    Until(&'static [u8]),
}

/// Reads one part.
pub(super) struct Scan<'b> {
    bounds: &'b mut Bounds,
    copies_names: bool,
    /// The first bytes.
    start: Vec<u8>,
    at: At,
    /// The bytes of the text or tag so far.
    length: u64,
    /// The beginning of the tag, without its bracket.
    tag: Vec<u8>,
    /// The last bytes.
    last: [u8; 2],
    depth: u64,
    /// The bytes so far of the cell, shared string or name, if inside one.
    cell: Option<u64>,
    /// Whether that one stays in memory.
    stays: bool,
}

impl<'b> Scan<'b> {
    /// For a part whose names may be copied.
    pub(super) fn new(bounds: &'b mut Bounds, copies_names: bool) -> Self {
        Self {
            bounds,
            copies_names,
            start: Vec::new(),
            at: At::Text,
            length: 0,
            tag: Vec::new(),
            last: [0; 2],
            depth: 0,
            cell: None,
            stays: false,
        }
    }

    /// Continues with these bytes; the error names the limit that the part exceeds.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        if self.start.len() < 2 {
            self.start.extend(bytes.iter().take(2));
            // Its tags would not be found here.
            if let [0xfe, 0xff, ..] | [0xff, 0xfe, ..] | [0, b'<', ..] | [b'<', 0, ..] =
                self.start[..]
            {
                return Err("a text in UTF-16; expected UTF-8".to_owned());
            }
        }
        while let Some(&byte) = bytes.first() {
            match self.at {
                At::Text => {
                    let end = memchr(b'<', bytes);
                    self.count(end.unwrap_or(bytes.len()) as u64)?;
                    bytes = &bytes[end.map_or(bytes.len(), |end| end + 1)..];
                    if end.is_some() {
                        self.length = 0;
                        self.count(1)?;
                        self.tag.clear();
                        self.last = [0; 2];
                        self.at = At::Tag(None);
                    }
                    continue;
                }
                At::Tag(quote) => self.in_tag(byte, quote)?,
                At::Declaration => self.in_declaration(byte)?,
                At::Until(end) => {
                    let [a, b] = self.last;
                    // The opening characters are not part of the closing ones, for example in `<!-->`.
                    let least = if end == b"?>" { 3 } else { 6 };
                    if [a, b, byte].ends_with(end) && self.length >= least {
                        self.text();
                    }
                }
            }
            self.count(1)?;
            self.last = [self.last[1], byte];
            bytes = &bytes[1..];
        }
        Ok(())
    }

    fn text(&mut self) {
        self.at = At::Text;
        self.length = 0;
    }

    fn count(&mut self, bytes: u64) -> Result<(), String> {
        let (limit, most) = (self.bounds.most_cell, self.bounds.most_cell >> 20);
        self.length += bytes;
        if let Some(cell) = &mut self.cell {
            *cell += bytes;
            if self.stays {
                self.bounds.held += bytes;
            }
            if *cell > limit {
                return Err(format!(
                    "a cell of more than {most} MiB; expected at most {most} MiB"
                ));
            }
        }
        if self.length > limit {
            Err(format!(
                "a text or tag of more than {most} MiB; expected at most {most} MiB"
            ))
        } else {
            Ok(())
        }
    }

    fn in_tag(&mut self, byte: u8, quote: Option<u8>) -> Result<(), String> {
        match (self.tag.first(), byte) {
            (None, b'!') => self.at = At::Declaration,
            (None, b'?') => self.at = At::Until(b"?>"),
            (Some(b'/'), b'>') => return self.close(),
            (Some(b'/'), _) => {}
            (_, b'>') if quote.is_none() => return self.open(),
            (_, b'"' | b'\'') if quote.is_none() => self.at = At::Tag(Some(byte)),
            (_, byte) if quote == Some(byte) => self.at = At::Tag(None),
            _ => {}
        }
        if self.tag.len() < TAG_START {
            self.tag.push(byte);
        }
        Ok(())
    }

    fn in_declaration(&mut self, byte: u8) -> Result<(), String> {
        self.tag.push(byte);
        match &self.tag[1..] {
            b"--" => self.at = At::Until(b"-->"),
            b"[CDATA[" => self.at = At::Until(b"]]>"),
            start if b"--".starts_with(start) || b"[CDATA[".starts_with(start) => {}
            _ => return Err("a document type; expected none".to_owned()),
        }
        Ok(())
    }

    /// Handles the end of an opening tag.
    fn open(&mut self) -> Result<(), String> {
        let is_empty = self.last[1] == b'/';
        let length = self.length;
        self.text();
        self.depth += u64::from(!is_empty);
        if self.depth > MOST_DEPTH {
            return Err(format!(
                "elements nested more than {MOST_DEPTH} levels deep"
            ));
        }
        let (holds_text, held) = match local_name(&self.tag) {
            b"c" => (true, 0),
            b"si" | b"definedName" => (true, STRING),
            b"sst" => return self.shared_strings(),
            b"xf" | b"sheet" => {
                self.bounds.copies += 1;
                (false, STYLE + length)
            }
            b"font" | b"fill" | b"border" | b"numFmt" | b"Relationship" => (false, STYLE + length),
            // These are read one cell at a time.
            b"row" | b"v" | b"f" | b"is" | b"t" => (false, 0),
            _ => (false, OTHER),
        };
        if holds_text {
            self.cell = Some(0).filter(|_| !is_empty);
            self.stays = held > 0;
        }
        self.bounds.held += held;
        if self.copies_names {
            self.bounds.longest = self.bounds.longest.max(length);
        }
        self.bounds.check()
    }

    /// The reader reserves memory for as many strings as are declared. Another number, such as a year in an address, is
    /// not larger.
    fn shared_strings(&self) -> Result<(), String> {
        let numbers = self.tag.split(|byte| !byte.is_ascii_digit());
        let most = self.bounds.most_held / DECLARED;
        let is_too_large = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            !digits.is_empty() && !digits.parse::<u64>().is_ok_and(|number| number <= most)
        };
        if self.tag.len() == TAG_START || numbers.into_iter().any(is_too_large) {
            Err(format!("a number of shared strings above {most}"))
        } else {
            Ok(())
        }
    }

    /// Handles the end of a closing tag.
    fn close(&mut self) -> Result<(), String> {
        self.text();
        self.depth = self.depth.saturating_sub(1);
        if matches!(local_name(&self.tag[1..]), b"c" | b"si" | b"definedName") {
            self.cell = None;
        }
        self.bounds.check()
    }
}

/// The name of an element, without its prefix.
fn local_name(tag: &[u8]) -> &[u8] {
    let end = tag
        .iter()
        .position(|byte| byte.is_ascii_whitespace() || *byte == b'/');
    let name = &tag[..end.unwrap_or(tag.len())];
    match memchr(b':', name) {
        Some(colon) => &name[colon + 1..],
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(pieces: &[&[u8]]) -> Result<u64, String> {
        let mut bounds = Bounds::new(1 << 20, 1 << 30);
        let mut scan = Scan::new(&mut bounds, true);
        pieces.iter().try_for_each(|piece| scan.feed(piece))?;
        Ok(bounds.held)
    }

    #[test]
    fn texts_that_stay_in_memory_are_counted() {
        let sheet = b"<?xml?><row><c r='A>1' t=\"is\"><is>text</is></c></row>";
        assert_eq!(scanned(&[sheet]), Ok(0));
        let strings = b"<x:sst uniqueCount=\"2\"><x:si><t>one</t></x:si>\n<si/></x:sst>";
        let expected = 2 * STRING + "><t>one</t></x:si".len() as u64;
        assert_eq!(scanned(&[strings]), Ok(expected));
        let bytes: Vec<&[u8]> = strings.chunks(1).collect();
        assert_eq!(scanned(&bytes), Ok(expected));
        let comment = b"<a><!-- <si> --><![CDATA[<si>]]><?x <si> ?></a>";
        assert_eq!(scanned(&[comment]), Ok(OTHER));
    }

    #[test]
    fn memory_held_at_once_is_limited() {
        let piece = vec![b'x'; 1 << 16];
        let many = |start: &'static [u8]| {
            let mut pieces: Vec<&[u8]> = vec![start];
            pieces.extend(std::iter::repeat_n(&piece[..], 17));
            pieces
        };
        for (start, said) in [
            (&b"<c><v>"[..], "a cell of more than 1 MiB"),
            (b"<si><t>", "a cell of more than 1 MiB"),
            (b"<a>", "a text or tag of more than 1 MiB"),
            (b"<a b='>", "a text or tag of more than 1 MiB"),
            (b"<!-- >", "a text or tag of more than 1 MiB"),
            (b"<!-->", "a text or tag of more than 1 MiB"),
            (b"<![CDATA[ >", "a text or tag of more than 1 MiB"),
            (b"<?x >", "a text or tag of more than 1 MiB"),
        ] {
            let why = scanned(&many(start)).unwrap_err();
            assert!(why.starts_with(said), "{why}");
        }
        // Many texts in one cell, each of them short.
        let rich = "<r><t>x</t></r>".repeat(7000);
        let mut cell: Vec<&[u8]> = vec![b"<si>"];
        cell.extend(std::iter::repeat_n(rich.as_bytes(), 11));
        assert!(
            scanned(&cell)
                .unwrap_err()
                .starts_with("a cell of more than 1 MiB")
        );
    }

    #[test]
    fn contents_that_multiply_memory_are_rejected() {
        let nested = "<a>".repeat(257);
        let styles = format!("<font><name val='{}'/></font>", "x".repeat(1 << 19));
        let styles = styles + &"<xf/>".repeat(2048);
        for (xml, said) in [
            (nested.as_str(), "elements nested more than 256 levels deep"),
            (
                "<!DOCTYPE x [<!ENTITY a 'b'>]>",
                "a document type; expected none",
            ),
            (
                "<sst uniqueCount='99999999999'>",
                "a number of shared strings above 44739242",
            ),
            (
                "<sst uniqueCount='99999999999999999999999'>",
                "a number of shared strings above",
            ),
            ("<\0a\0>\0", "a text in UTF-16; expected UTF-8"),
            (
                &styles,
                "texts and styles that take more memory than this file may use, 1024 MiB",
            ),
        ] {
            let why = scanned(&[xml.as_bytes()]).unwrap_err();
            assert!(why.starts_with(said), "{why}");
        }
    }
}
