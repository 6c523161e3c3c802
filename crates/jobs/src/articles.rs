//! The texts of articles for payloads that contain only an `article_id`.

use std::io;
use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::Agent;
use ureq::http::header::{CONTENT_TYPE, RETRY_AFTER};
use ureq::unversioned::transport::DefaultConnector;

use batchwright::config::ArticleSource;
use batchwright::provider::redacted_url;
use batchwright::unstable::{PublicResolver, named_file};
use batchwright::{Context, Error, ErrorKind};

use super::extract_content::{LONGEST, article_text};

const FETCH_TIMEOUT: Duration = Duration::from_secs(20);
const MOST_REDIRECTS: u32 = 5;
/// All bytes that have a meaning in an address.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Finds the text of an article at this source, by its id.
pub(crate) fn finder(
    source: ArticleSource,
    private: bool,
) -> impl Fn(&str, &Context) -> Result<String, Error> + Send + Sync {
    let agent = agent(private);
    move |id, ctx| {
        ctx.check()?;
        let found = match &source {
            ArticleSource::Folder(folder) => in_folder(folder, id),
            ArticleSource::Url(template) => at_url(template, id, &agent, private),
        };
        found.map_err(|error| error.context(format!("article {id:?}")))
    }
}

fn at_url(template: &str, id: &str, agent: &Agent, private: bool) -> Result<String, Error> {
    if id == "." || id == ".." {
        return Err(invalid("the id would change the path of jobs.articles"));
    }
    let id = utf8_percent_encode(id, RESERVED).to_string();
    let url = template.replace(ArticleSource::ID, &id);
    let place = redacted_url(&url);
    let sent = agent.get(&url).call();
    let mut reply = sent.map_err(|error| unreachable(error, &place, private))?;
    let status = reply.status();
    let header = |name| reply.headers().get(name)?.to_str().ok();
    if !status.is_success() {
        let kind = match status.as_u16() {
            404 | 410 => ErrorKind::NotFound,
            401 | 403 => ErrorKind::PermissionDenied,
            408 | 429 | 500.. => ErrorKind::Transient,
            _ => ErrorKind::Invalid,
        };
        let wait = header(RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
        let error = Error::new(kind, format!("{place} answered {status}"));
        return Err(error.with_retry_after(wait.map(Duration::from_secs)));
    }
    let kind = header(CONTENT_TYPE).unwrap_or_default();
    let is_page = ["text/html", "application/xhtml+xml"];
    let is_page = is_page.iter().any(|page| kind.starts_with(page));
    let body = reply.body_mut().with_config().limit(LONGEST).read_to_vec();
    let bytes = body.map_err(|error| unreachable(error, &place, private))?;
    article_text(&bytes, is_page)
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

fn too_long() -> Error {
    invalid(format!("its text is longer than {} MiB", LONGEST >> 20))
}

fn in_folder(folder: &Path, id: &str) -> Result<String, Error> {
    let is_odd = |c: char| c.is_control() || "/\\:".contains(c);
    if id.starts_with('.') || id.contains(is_odd) {
        let why =
            "the id is not a valid file name for jobs.articles: no `/`, `\\`, `:` or leading dot";
        return Err(invalid(why));
    }
    let shown = folder.display();
    let folder = folder
        .canonicalize()
        .map_err(|error| Error::from(error).context(format!("jobs.articles: {shown}")))?;
    for extension in ["txt", "md", "html"] {
        let path = folder.join(format!("{id}.{extension}"));
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::from(error).context(path.display())),
        };
        let named = path.display();
        if !real.starts_with(&folder) {
            return Err(invalid(format!(
                "{named} links to a file outside of {shown}"
            )));
        }
        let bytes = read(&real).map_err(|error| error.context(&named))?;
        return article_text(&bytes, extension == "html");
    }
    let why = format!("{shown} has no file {id}.txt, {id}.md or {id}.html");
    Err(Error::new(ErrorKind::NotFound, why))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    named_file::read(path, LONGEST).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => too_long(),
        _ => error.into(),
    })
}

fn agent(private: bool) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // This is checked at every redirect, and so is each address that a name resolves to.
        .https_only(!private)
        .max_redirects(MOST_REDIRECTS)
        .timeout_global(Some(FETCH_TIMEOUT))
        // A proxy would resolve names itself.
        .proxy(None)
        .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")))
        .build();
    Agent::with_parts(
        config,
        DefaultConnector::default(),
        PublicResolver::new(private),
    )
}

/// An address that is not allowed is a permanent failure; all others may be temporary.
fn unreachable(error: ureq::Error, place: &str, private: bool) -> Error {
    const FIX: &str =
        "to allow private addresses and http://: batchwright config set jobs.articles_private true";
    let (kind, why) = match error {
        ureq::Error::BodyExceedsLimit(_) => return too_long(),
        ureq::Error::RequireHttpsOnly(_) => {
            let why = format!("it does not begin with https://; {FIX}");
            (ErrorKind::PermissionDenied, why)
        }
        ureq::Error::Io(error) if !private && error.kind() == io::ErrorKind::PermissionDenied => {
            (ErrorKind::PermissionDenied, format!("{error}; {FIX}"))
        }
        // The texts of these errors may quote the URL, which may contain a key.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Protocol(_) => {
            let why = "it is not a usable URL, redirects to an unusable one, or its reply is not valid HTTP";
            (ErrorKind::Transient, why.to_owned())
        }
        other => (ErrorKind::Transient, other.to_string()),
    };
    Error::new(kind, format!("{place}: {why}"))
}

#[cfg(test)]
#[path = "articles_tests.rs"]
mod tests;
