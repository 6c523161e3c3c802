//! The source of article texts, from the setting `jobs.articles`.

use std::path::PathBuf;

/// How the text of an article is looked up by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArticleSource {
    /// A folder that contains `ID.txt`, `ID.md` or `ID.html` for each article.
    Folder(PathBuf),
    /// A SQLite database.
    Sqlite {
        /// Its file.
        file: PathBuf,
        /// A `SELECT` with the id as its only parameter; its first column is the text.
        query: String,
    },
    /// A URL that has `{article_id}` in its path or query.
    Url(String),
}

pub(super) const ACCEPTED: &str = "a folder, `sqlite:FILE?SELECT text FROM articles WHERE id = ?` or \
     `https://HOST/articles/{article_id}`";

impl ArticleSource {
    /// The placeholder for the id in a [`Url`](Self::Url).
    pub const ID: &str = "{article_id}";

    /// Parses the setting; `None` if the text has another format.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("sqlite:") {
            let (file, query) = rest.split_once('?')?;
            let (file, query) = (file.trim(), query.trim());
            let selects = query.get(..6)?.eq_ignore_ascii_case("select");
            let sound = !file.is_empty() && selects && query.contains('?');
            return sound.then(|| Self::Sqlite {
                file: file.into(),
                query: query.to_owned(),
            });
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
