//! The article of a page, as Mozilla's Readability finds it.

use std::cell::Cell;

use dom_query::{Document, NodeId};
use dom_smoothie::{Config, Readability, TextMode};
use html5ever::tendril::TendrilSink;
use html5ever::tree_builder::{Tracer, TreeBuilderOpts};
use html5ever::{ParseOpts, parse_document};
use serde_json::{Value, json};

use batchwright::{Error, ErrorKind};

/// Larger pages are not articles, and parsing them would occupy a thread for a long time.
const MOST_ELEMENTS: usize = 200_000;
/// The time to parse a page grows with the square of its depth; browsers flatten elements that are nested deeper. This
/// includes the placeholders of elements that are reopened.
const MOST_OPEN: usize = 512;
/// Elements, the texts between them, and comments.
const MOST_NODES: usize = 5 * MOST_ELEMENTS;
/// Number of bytes that are parsed before the limits are checked.
const PIECE: usize = 4096;

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

/// The properties of the article on the page.
pub(crate) fn article(html: &str, url: Option<&str>) -> Result<Value, Error> {
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
}
