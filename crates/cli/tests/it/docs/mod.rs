//! The pages for users, checked with the program: transcripts are replayed, and links are followed.
//!
//! `UPDATE_DOCS=1 cargo test --test it docs` writes what the program prints into the pages.

mod links;
mod normal;
mod transcript;

use std::path::{Path, PathBuf};

/// The folder of `README.md`.
fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap()
}

/// `README.md`, `CHANGELOG.md` and every page of the documentation.
fn pages() -> Vec<PathBuf> {
    let root = root();
    let mut pages = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    let book = std::fs::read_dir(root.join("docs")).unwrap();
    let book = book.map(|entry| entry.unwrap().path());
    pages.extend(book.filter(|path| path.extension().is_some_and(|end| end == "md")));
    pages.sort();
    pages
}

fn replayed(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let name = page.file_name().unwrap().to_string_lossy().into_owned();
    let (written, differences) =
        transcript::replay(&text).unwrap_or_else(|why| panic!("{name}: {why}"));
    if std::env::var_os("UPDATE_DOCS").is_some() && !differences.is_empty() {
        std::fs::write(page, written).unwrap();
        return Vec::new();
    }
    let tell = |difference: String| format!("{name} {difference}");
    differences.into_iter().map(tell).collect()
}

#[test]
fn every_transcript_is_what_the_program_prints() {
    // Pages mostly wait for their simulators, so all of them run at once.
    let pages = pages();
    let stale: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = pages
            .iter()
            .map(|page| scope.spawn(move || replayed(page)))
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.flatten().collect()
    });
    assert!(
        stale.is_empty(),
        "UPDATE_DOCS=1 rewrites:\n{}",
        stale.join("\n")
    );
}

#[test]
fn pages_show_the_flags_of_their_simulators() {
    // `docs/README.md` starts the simulator of all pages there, with a latency.
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let shown = text.lines().filter(|line| !line.starts_with("<!--"));
        let shown: String = shown.flat_map(|line| [line, "\n"]).collect();
        let is_in_docs = page.parent().unwrap().ends_with("docs");
        for found in transcript::transcripts(&text).unwrap() {
            let words = found.needs.simulate.unwrap_or_default();
            for flag in words
                .split_whitespace()
                .filter(|word| word.starts_with("--"))
            {
                let is_known = is_in_docs && flag == "--latency";
                assert!(
                    is_known || shown.contains(flag),
                    "{flag}: {}",
                    page.display()
                );
            }
        }
    }
}
