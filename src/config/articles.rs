//! The source of article texts, from the setting `jobs.articles`.

use std::path::PathBuf;

/// How the text of an article is looked up by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArticleSource {
    /// A folder that contains `ID.txt`, `ID.md` or `ID.html` for each article.
    Folder(PathBuf),
    /// A URL that has `{article_id}` in its path or query.
    Url(String),
}

pub(super) const ACCEPTED: &str = "a folder or `https://HOST/articles/{article_id}`";

impl ArticleSource {
    /// The placeholder for the id in a [`Url`](Self::Url).
    pub const ID: &str = "{article_id}";

    /// Parses the setting; `None` if the text has another format.
    pub(super) fn parse(text: &str) -> Option<Self> {
        // Databases were a source once.
        if text.starts_with("sqlite:") {
            return None;
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return (!text.is_empty()).then(|| Self::Folder(text.into()));
        };
        // An id must not choose the host, and a password must not be stored.
        let host = rest.split(['/', '?', '#']).next()?;
        let sound = matches!(scheme, "https" | "http")
            && !host.is_empty()
            && !host.contains(['{', '@'])
            && rest.contains(Self::ID);
        sound.then(|| Self::Url(text.to_owned()))
    }
}
