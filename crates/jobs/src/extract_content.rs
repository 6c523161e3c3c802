//! `extract_content`: the text of the article on a page, without menus and other surrounding parts.

use std::path::Path;

use encoding_rs::{Encoding, ISO_2022_JP, UTF_8, WINDOWS_1252};
use serde::Deserialize;
use serde_json::Value;

#[cfg(not(feature = "pages"))]
use batchwright::ErrorKind;
use batchwright::queue::{JobKinds, ModelCall};
use batchwright::unstable::named_file;
use batchwright::{Context, Error, Handler, RunningJob};

use super::fields::{PayloadError, Text, read};
use super::job_type::{Host, JobType};
#[cfg(feature = "pages")]
use super::page::article;

/// Maximum size of an article in bytes; longer texts are rejected.
pub(crate) const LONGEST: u64 = 16 << 20;

/// According to the standard, a page declares its encoding within its first bytes.
const DECLARED_WITHIN: usize = 1024;

const NAME: &str = "extract_content";
/// Whether jobs of this type run here; otherwise they are left to other workers.
const READS_PAGES: bool = cfg!(feature = "pages");
const NOT_BUILT: &str = "this program was built without the reading of HTML pages: take a released program, or build it \
                         with `--features pages`";

#[cfg(not(feature = "pages"))]
fn article(_: &str, _: Option<&str>) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::Invalid, NOT_BUILT))
}

pub(crate) fn job_type(host: &Host) -> JobType {
    let local_files = host.local_files;
    let handler = Handler::new(|job: &RunningJob, _: &Context| {
        let payload: Payload = job.parse()?;
        article(&payload.html.0, payload.url.as_deref())
    });
    let mut kinds = JobKinds::new();
    if READS_PAGES {
        kinds = kinds.handler(NAME, handler.within(ModelCall::DEFAULT_TIMEOUT));
    }
    JobType::new(NAME, kinds)
        .about("Text of the article in an HTML page")
        .accept(move |payload| {
            if !READS_PAGES {
                return Err(PayloadError::new("type", NOT_BUILT));
            }
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

/// A text, or that of the article if it is a page.
pub(crate) fn article_text(bytes: &[u8], is_page: bool) -> Result<String, Error> {
    let text = decoded(bytes);
    if !is_page {
        return Ok(text);
    }
    let found = article(&text, None)?;
    Ok(found["text"].as_str().unwrap_or_default().to_owned())
}

#[cfg(all(test, feature = "pages"))]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::JobTypes;

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
