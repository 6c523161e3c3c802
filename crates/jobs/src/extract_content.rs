//! `extract_content`: the text of the article on a page, without menus and other surrounding parts.

use std::cell::Cell;
use std::path::Path;

use dom_query::{Document, NodeId};
use dom_smoothie::{Config, Readability, TextMode};
use encoding_rs::{Encoding, ISO_2022_JP, UTF_8, WINDOWS_1252};
use html5ever::tendril::TendrilSink;
use html5ever::tree_builder::{Tracer, TreeBuilderOpts};
use html5ever::{ParseOpts, parse_document};
use serde::Deserialize;
use serde_json::{Value, json};

use batchwright::queue::ModelCall;
use batchwright::unstable::named_file;
use batchwright::{Context, Error, ErrorKind, Handler, RunningJob};

use super::fields::{PayloadError, Text, read};
use super::job_type::{Host, JobType};

/// Maximum size of an article in bytes; longer texts are rejected.
pub(crate) const LONGEST: u64 = 16 << 20;

/// Larger pages are not articles, and parsing them would occupy a thread for a long time.
const MOST_ELEMENTS: usize = 200_000;
/// The time to parse a page grows with the square of its depth; browsers flatten elements that are nested deeper. This
/// includes the placeholders of elements that are reopened.
const MOST_OPEN: usize = 512;
/// Elements, the texts between them, and comments.
const MOST_NODES: usize = 5 * MOST_ELEMENTS;
/// Number of bytes that are parsed before the limits are checked.
const PIECE: usize = 4096;
/// According to the standard, a page declares its encoding within its first bytes.
const DECLARED_WITHIN: usize = 1024;

pub(crate) fn job_type(host: &Host) -> JobType {
    let local_files = host.local_files;
    let handler = Handler::new(|job: &RunningJob, _: &Context| {
        let payload: Payload = job.parse()?;
        article(&payload.html.0, payload.url.as_deref())
    });
    JobType::handled(
        "extract_content",
        handler.within(ModelCall::DEFAULT_TIMEOUT),
    )
    .about("Text of the article in an HTML page")
    .accept(move |payload| {
        // Beside `html`, `path` is an unknown field.
        if local_files
            && payload.get("html").is_none()
            && let Some(path) = payload.get("path").and_then(Value::as_str)
        {
            let bytes = named_file::read(Path::new(path), LONGEST).map_err(|error| {
                PayloadError::new("path", format!("{path:?} cannot be read: {error}"))
            })?;
            payload["html"] = decoded(&bytes).into();
            payload.as_object_mut().and_then(|page| page.remove("path"));
        }
        let url = read::<Payload>(payload)?.url;
        let is_web = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if !url.as_ref().is_none_or(is_web) {
            let why = "write an address as https://example.org/page";
            return Err(PayloadError::new("url", why));
        }
        Ok(None)
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    html: Text,
    /// The address of the page, for links and titles.
    url: Option<String>,
}

/// The text of a page, in the encoding that its byte order mark or its declaration names.
fn decoded(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(DECLARED_WITHIN)];
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let declared = head.split_once("charset=").and_then(|(_, rest)| {
        let rest = rest.trim_start_matches(['"', '\'', ' ']);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-_:".contains(c));
        Encoding::for_label(&rest.as_bytes()[..end.unwrap_or(rest.len())])
    });
    let encoding = match (std::str::from_utf8(bytes), declared) {
        // All its bytes are ASCII, and therefore valid UTF-8.
        (_, Some(declared)) if declared == ISO_2022_JP => ISO_2022_JP,
        (Ok(_), _) => UTF_8,
        (Err(_), declared) => declared.unwrap_or(WINDOWS_1252),
    };
    encoding.decode(bytes).0.into_owned()
}

/// Parses a page as browsers do, piece by piece, so that a page that would take for ever is detected early: the
/// parser searches all open elements at every tag.
fn parsed(html: &str) -> Result<Document, Error> {
    let options = ParseOpts {
        tree_builder: TreeBuilderOpts {
            scripting_enabled: false,
            ..TreeBuilderOpts::default()
        },
        ..ParseOpts::default()
    };
    let mut parser = parse_document(Document::default(), options);
    let mut rest = html;
    while !rest.is_empty() {
        let mut end = rest.len().min(PIECE);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, after) = rest.split_at(end);
        parser.process(piece.into());
        rest = after;
        let reading = &parser.tokenizer.sink;
        let open = Counted(Cell::new(0));
        reading.trace_handles(&open);
        let why = if open.0.get() > MOST_OPEN {
            format!("elements of the page are nested more than {MOST_OPEN} deep")
        } else if reading.sink.tree.len() > MOST_NODES {
            format!("the page has more than {MOST_ELEMENTS} elements")
        } else {
            continue;
        };
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    Ok(parser.finish())
}

/// Counts the open elements.
struct Counted(Cell<usize>);

impl Tracer for Counted {
    type Handle = NodeId;

    fn trace_handle(&self, _: &NodeId) {
        self.0.set(self.0.get() + 1);
    }
}

/// A text, or that of the article if it is a page.
pub(crate) fn article_text(bytes: &[u8], is_page: bool) -> Result<String, Error> {
    let text = decoded(bytes);
    if !is_page {
        return Ok(text);
    }
    let found = article(&text, None)?;
    Ok(found["text"].as_str().unwrap_or_default().to_owned())
}

/// The properties of the article on the page.
fn article(html: &str, url: Option<&str>) -> Result<Value, Error> {
    let page = parsed(html)?;
    let config = Config {
        max_elements_to_parse: MOST_ELEMENTS,
        text_mode: TextMode::Formatted,
        ..Config::default()
    };
    let none = |why: String| {
        let why = format!("the page has no article: {why}");
        Error::new(ErrorKind::Invalid, why)
    };
    let found =
        Readability::with_document(page, url, Some(config)).and_then(|mut page| page.parse());
    let article = found.map_err(|error| none(error.to_string()))?;
    let text = article.text_content.trim();
    if text.is_empty() {
        return Err(none("it has no text".to_owned()));
    }
    Ok(json!({
        "title": article.title,
        "byline": article.byline,
        "text": text,
        "length": text.chars().count(),
        "excerpt": article.excerpt,
        "site_name": article.site_name,
        "language": article.lang,
        "published_time": article.published_time,
        "url": url,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::JobTypes;

    fn page(paragraphs: &str) -> String {
        format!(
            "<html lang=\"en\"><head><title>Rain in Bern</title></head><body><nav><a href=\"/\">Home</a> \
             <a href=\"/sports\">Sports</a></nav><article><h1>Rain in Bern</h1>{paragraphs}</article>\
             <footer>Subscribe to our newsletter</footer></body></html>"
        )
    }

    fn paragraphs(n: usize) -> String {
        let one = "<p>It rained all day in Bern, as it had done the day before, and the river rose by half \
                   a metre, said the office that measures it, and nobody went out.</p>";
        one.repeat(n)
    }

    #[test]
    fn the_article_is_extracted_without_its_surroundings() {
        let found = article(&page(&paragraphs(6)), Some("https://example.org/rain")).unwrap();
        assert_eq!(found["title"], "Rain in Bern");
        assert_eq!(found["language"], "en");
        let text = found["text"].as_str().unwrap();
        assert!(text.contains("the river rose by half"), "{text}");
        for noise in ["Sports", "newsletter", "<p>"] {
            assert!(!text.contains(noise), "{noise}: {text}");
        }
    }

    #[test]
    fn a_page_without_an_article_fails_permanently() {
        for html in [
            "",
            "<p></p>",
            "<div></div>",
            "<div><script>x()</script></div>",
        ] {
            let error = article(html, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{html}");
        }
    }

    #[test]
    fn too_deeply_nested_pages_are_rejected() {
        let many = |part: &str, count| part.repeat(count);
        let deep = |n: usize| many("<div>", n) + &paragraphs(6);
        // Only open elements count.
        let flat = [
            many("<br><p>a<b>b</b>", 3_000),
            format!("<script>{}</script>", many("if(a<b)c();", 3_000)),
            format!(
                "<!-- {} --><ul>{}</ul>",
                many("<div>", 3_000),
                many("<li>one", 3_000)
            ),
        ];
        let icon = "<svg viewBox=\"0 0 1 1\"><path d=\"M0 0\"/><g><circle r=\"1\"/></g></svg>";
        let ruby = "<ruby>漢<rp>(<rt>kan<rp>)</ruby>";
        let page = format!("<body>{}{}", many(icon, 1_200), many(ruby, 1_200));
        for good in [
            deep(200),
            page + &paragraphs(6),
            flat.concat() + &paragraphs(6),
        ] {
            assert!(article(&good, None).is_ok());
        }
        // Each paragraph reopens all bold elements.
        let again: String = (0..1_500).map(|i| format!("<p><b id={i}></p>")).collect();
        for bad in [
            deep(MOST_OPEN + 1),
            // End tags without a matching start tag close nothing.
            format!(
                "<body>{}",
                many("<div></b></span></section>", MOST_OPEN + 1)
            ),
            many("<span><div></span>", MOST_OPEN),
        ] {
            let error = article(&bad, None).unwrap_err();
            assert!(error.message().contains("nested"), "{error}");
        }
        for large in [again, many("<i>", 500_000)] {
            assert!(article(&large, None).is_err());
        }
    }

    #[test]
    fn files_are_read_only_if_allowed_and_no_page_is_fetched() {
        let types = JobTypes::new();
        let by = |types: &JobTypes, payload| types.job("extract_content", payload).map(drop);
        let url = json!({"url": "https://example.org"});
        assert_eq!(by(&types, url).unwrap_err().field, "html");
        let path = json!({"path": "/etc/hostname"});
        assert_eq!(by(&types, path).unwrap_err().field, "path");
        let types = types.local_files(true);
        let gone = by(&types, json!({"path": "/no/such/file"})).unwrap_err();
        assert!(gone.message.contains("cannot be read"), "{gone}");
        let odd = by(
            &types,
            json!({"html": "<p>a</p>", "url": "file:///etc/passwd"}),
        )
        .unwrap_err();
        assert_eq!(odd.field, "url");
    }

    #[test]
    fn a_file_is_read_in_the_encoding_it_declares() {
        for (page, word) in [
            (&b"<meta charset=\"iso-8859-1\"><p>caf\xe9</p>"[..], "café"),
            ("<p>café</p>".as_bytes(), "café"),
            (b"<meta charset=Shift_JIS><p>\x93\xfa\x96\x7b</p>", "日本"),
            (
                b"<meta charset=ISO-2022-JP><p>\x1b$BF|K\\\x1b(B</p>",
                "日本",
            ),
        ] {
            assert!(decoded(page).contains(word), "{}", decoded(page));
        }
    }
}
