//! Forms with files (RFC 7578), read as they arrive: no part of a file stays in memory.
//!
//! Strict: input that is not such a form is rejected. Browsers, curl and OpenAI's clients write valid forms.

use std::io::{self, BufRead, BufReader, Read};

use crate::problem::Problem;

/// Most bytes of the headers of one part.
const MOST_HEADERS: usize = 16 << 10;
/// Most parts of a form.
const MOST_PARTS: usize = 64;
/// RFC 2046.
const MOST_BOUNDARY: usize = 70;
const CHUNK: usize = 64 << 10;

/// A form that is being read, a line of it at a time.
pub(super) struct Multipart<R> {
    body: BufReader<R>,
    /// What ends a part, on a line of its own: two hyphens and the boundary.
    delimiter: Vec<u8>,
    /// What has come of a part, and how much of it was taken.
    ready: (Vec<u8>, usize),
    /// The end of a line, which belongs to the part unless a delimiter follows; or the first half of one.
    held: Vec<u8>,
    parts: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Begin,
    /// Within a part.
    Part,
    /// Behind a delimiter.
    Between,
    End,
}

/// What a part says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub name: String,
    pub filename: Option<String>,
}

impl<R: Read> Multipart<R> {
    /// The form that a body of this content type holds.
    ///
    /// # Errors
    /// When it is another content type, or names no boundary.
    pub fn new(content_type: &str, body: R) -> Result<Self, Problem> {
        let boundary = boundary(content_type).ok_or_else(|| {
            let why =
                "send the file as multipart/form-data, with a boundary of at most 70 characters";
            Problem::unsupported_media_type(why)
        })?;
        Ok(Self {
            body: BufReader::with_capacity(CHUNK, body),
            delimiter: [b"--", boundary.as_bytes()].concat(),
            ready: (Vec::new(), 0),
            // The first delimiter has no line end before it.
            held: b"\r\n".to_vec(),
            parts: 0,
            state: State::Begin,
        })
    }

    /// The next part, of which what was not read is passed over. `None` at the end of the form.
    ///
    /// # Errors
    /// When this is no form, or it cannot be read.
    pub fn next_part(&mut self) -> Result<Option<Part>, Problem> {
        if matches!(self.state, State::Begin | State::Part) {
            io::copy(self, &mut io::sink())?;
        }
        if self.state == State::End {
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > MOST_PARTS {
            return Err(broken("it has too many parts"));
        }
        let mut part = Part::default();
        let mut left = MOST_HEADERS;
        loop {
            let line = self.line(&mut left)?;
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(broken("a header of a part has no colon"));
            };
            if name.eq_ignore_ascii_case("content-disposition") {
                part = disposition(value).ok_or_else(|| broken("a part has no name"))?;
            }
        }
        if part.name.is_empty() {
            return Err(broken("a part has no name"));
        }
        self.state = State::Part;
        Ok(Some(part))
    }

    /// The rest of a part as text of at most so many bytes.
    ///
    /// # Errors
    /// When it is longer, or no text.
    pub fn text(&mut self, most: u64) -> Result<String, Problem> {
        let mut bytes = Vec::new();
        self.by_ref().take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(broken("a field is too long"));
        }
        String::from_utf8(bytes).map_err(|_| broken("a field is not UTF-8"))
    }

    /// A line of the headers, without its end.
    fn line(&mut self, left: &mut usize) -> Result<String, Problem> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.body).take(*left as u64);
        *left -= bounded.read_until(b'\n', &mut line)?;
        let line = line.strip_suffix(b"\r\n");
        let line = line.ok_or_else(|| broken("the headers of a part are too long or cut off"))?;
        String::from_utf8(line.to_vec()).map_err(|_| broken("a header of a part is not UTF-8"))
    }

    /// Reads more of a part; false at its end.
    fn fill(&mut self) -> io::Result<bool> {
        let (line, taken) = &mut self.ready;
        *taken = 0;
        loop {
            line.clear();
            line.append(&mut self.held);
            let follows_line = line == b"\r\n";
            let mut bounded = (&mut self.body).take(CHUNK as u64);
            if bounded.read_until(b'\n', line)? == 0 {
                return Err(broken("it ends within a part").into());
            }
            let ends = line.get(2..).filter(|_| follows_line);
            if let Some(rest) = ends.and_then(|line| line.strip_prefix(&*self.delimiter)) {
                self.state = match rest {
                    b"\r\n" => State::Between,
                    [b'-', b'-', ..] => State::End,
                    _ => return Err(broken("a boundary is followed by something else").into()),
                };
                line.clear();
                if self.state == State::End {
                    // What stands behind the form is nobody's.
                    io::copy(&mut self.body, &mut io::sink())?;
                }
                return Ok(false);
            }
            if self.state == State::Begin {
                return Err(broken("there is data before the first boundary").into());
            }
            let held = [&b"\r\n"[..], b"\r"];
            let held = held.into_iter().find(|end| line.ends_with(end));
            self.held = line.split_off(line.len() - held.map_or(0, <[u8]>::len));
            if !line.is_empty() {
                return Ok(true);
            }
        }
    }
}

/// What is in the present part.
impl<R: Read> Read for Multipart<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || matches!(self.state, State::Between | State::End) {
            return Ok(0);
        }
        if self.ready.1 == self.ready.0.len() && !self.fill()? {
            return Ok(0);
        }
        let (line, taken) = &mut self.ready;
        let read = (&line[*taken..]).read(out)?;
        *taken += read;
        Ok(read)
    }
}

fn boundary(content_type: &str) -> Option<&str> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = rest.split(';').find_map(|param| {
        let (name, value) = param.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then_some(value.trim())
    })?;
    let boundary = match boundary.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => boundary,
    };
    let plain = |b: u8| b.is_ascii_graphic() || b == b' ';
    let fits = (1..=MOST_BOUNDARY).contains(&boundary.len()) && boundary.bytes().all(plain);
    fits.then_some(boundary)
}

/// The name and the file name of a part.
fn disposition(value: &str) -> Option<Part> {
    let mut part = Part::default();
    let (kind, mut rest) = value.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return None;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        let Some((name, after)) = rest.split_once('=') else {
            return Some(part).filter(|_| rest.trim().is_empty());
        };
        let value;
        (value, rest) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted_text(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "name" => part.name = value,
            "filename" => part.filename = Some(value),
            // Which programs that say it so say beside it.
            _ => {}
        }
    }
}

/// A quoted text and what follows it. Browsers write `%22` for a quote, others `\"`.
fn quoted_text(text: &str) -> Option<(String, &str)> {
    let quotes = text.match_indices('"').map(|(at, _)| at);
    let mut quotes = quotes.filter(|at| !text[..*at].ends_with('\\'));
    let end = quotes.next()?;
    let value = text[..end].replace("\\\"", "\"").replace("%22", "\"");
    Some((value, &text[end + 1..]))
}

fn broken(why: &str) -> Problem {
    Problem::invalid(format!("the body is not a multipart form: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes at a time.
    struct Slow<'b>(&'b [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(out.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    type Parts = Vec<(Part, Vec<u8>)>;

    fn read(body: &[u8], step: usize) -> Result<Parts, Problem> {
        let kind = "multipart/form-data; boundary=x-y";
        let mut form = Multipart::new(kind, Slow(body, step))?;
        let mut parts = Vec::new();
        while let Some(part) = form.next_part()? {
            let mut bytes = Vec::new();
            form.read_to_end(&mut bytes)?;
            parts.push((part, bytes));
        }
        assert!(form.next_part()?.is_none());
        Ok(parts)
    }

    const FORM: &[u8] =
        b"--x-y\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
        --x-y\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\";.jsonl\"\r\n\
        Content-Type: application/jsonl\r\n\r\n{}\r\n--x-\r\n\r--x-y\n\r\n\r\n--x-y--\r\nepilogue";

    #[test]
    fn a_form_is_read_wherever_it_is_cut() {
        let part = |name: &str, filename: Option<&str>| Part {
            name: name.to_owned(),
            filename: filename.map(str::to_owned),
        };
        let expected = [
            (part("purpose", None), b"batch".to_vec()),
            (
                part("file", Some("a \"b\";.jsonl")),
                b"{}\r\n--x-\r\n\r--x-y\n\r\n".to_vec(),
            ),
        ];
        for step in 1..FORM.len() + 1 {
            assert_eq!(read(FORM, step).unwrap(), expected, "{step} bytes at once");
        }
    }

    #[test]
    fn a_form_takes_no_steps_with_the_square_of_its_longest_part() {
        use crate::steps::{allocated, assert_linear};
        let name = "Content-Disposition: form-data; name=\"a";
        for piece in ["a", "\r\n", "\r", "--x-y", "\n--x-"] {
            for begin in ["--x-y\r\n", "--x-y\r\nA: ", name, "", "--x-y--"] {
                let begin = format!("--x-y\r\n{name}\"\r\n\r\n{begin}");
                for step in [1, CHUNK] {
                    assert_linear(&format!("{piece:?} after {begin:?}"), |n| {
                        let body = format!("{begin}{}\r\n--x-y--", piece.repeat(n));
                        allocated(|| drop(read(body.as_bytes(), step)))
                    });
                }
            }
        }
    }

    #[test]
    fn what_is_no_form_is_refused_and_never_taken_for_a_shorter_one() {
        let whole = FORM.len() - "\r\nepilogue".len();
        for end in 0..whole {
            for step in [1, 7, FORM.len()] {
                assert!(read(&FORM[..end], step).is_err(), "{end}");
            }
        }
        for body in [
            &b"preamble\r\n--x-y--"[..],
            b"--x-yz\r\n\r\n\r\n--x-y--",
            b"--x-y\r\nContent-Disposition: form-data\r\n\r\n\r\n--x-y--",
            b"--x-y\r\nContent-Disposition: form-data; name=\"a\r\n\r\n\r\n--x-y--",
            b"--x-y\r\nContent-Type: text/plain\r\n\r\n\r\n--x-y--",
            b"--x-y\r\nno colon\r\n\r\n\r\n--x-y--",
        ] {
            assert!(read(body, 3).is_err(), "{}", String::from_utf8_lossy(body));
        }
        let endless = [b"--x-y\r\nA: ".as_slice(), &[b'a'; MOST_HEADERS + 1]].concat();
        assert!(read(&endless, CHUNK).is_err());
    }

    #[test]
    fn a_boundary_is_read_as_it_may_be_written() {
        let odd = "Multipart/Form-Data;charset=utf-8; Boundary=\"a b\"";
        for (kind, expected) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            (odd, Some("a b")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/mixed; boundary=abc", None),
            ("multipart/form-data; boundary=\"abc", None),
        ] {
            assert_eq!(boundary(kind), expected, "{kind}");
        }
        let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
        assert_eq!(boundary(&long), None);
    }
}
