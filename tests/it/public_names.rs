//! `docs/names.md` lists every public name with its purpose, taken from the tables of the modules.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that contain only public names, with the features that their module needs.
const MODULES: [(&str, &str, &str); 14] = [
    ("batch", "src/batch.rs", ""),
    ("client", "src/client.rs", ""),
    ("config", "src/config/mod.rs", ""),
    ("files", "src/files.rs", ""),
    ("plan", "src/plan.rs", ""),
    ("processing", "src/processing/mod.rs", "files"),
    ("progress", "src/progress.rs", ""),
    ("provider", "src/provider.rs", ""),
    ("queue", "src/queue/mod.rs", "queue"),
    ("sources", "src/sources/mod.rs", "files"),
    ("testing", "src/testing.rs", ""),
    ("unstable", "src/unstable.rs", ""),
    ("batchwright", "src/lib.rs", ""),
    ("batchwright-exec", "crates/exec/src/lib.rs", ""),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The rows of the tables in a module's documentation, without their headings and links.
fn rows(source: &str) -> Vec<String> {
    let mut rows = Vec::new();
    let mut in_attribute = false;
    for line in source.lines() {
        let text = line.trim_start();
        let begins = text.strip_prefix("doc = \"");
        let row = match (text.strip_prefix("//! "), begins) {
            (Some(text), _) | (None, Some(text)) => text,
            _ if in_attribute => text,
            _ => continue,
        };
        in_attribute =
            (begins.is_some() || in_attribute) && !row.trim_end_matches(',').ends_with('"');
        let row = row.trim_end_matches(',').trim_end_matches('"');
        let is_heading = ["| to |", "|---", "| module |", "| feature |", "| seam |"];
        if row.starts_with('|') && !is_heading.iter().any(|head| row.starts_with(head)) {
            rows.push(unlinked(row));
        }
    }
    rows
}

/// Links replaced by their texts, because pages outside of the documentation have no targets for them.
fn unlinked(row: &str) -> String {
    let mut out = String::new();
    let mut rest = row;
    while let Some((before, link)) = rest.split_once('[') {
        let Some((text, after)) = link.split_once(']') else {
            break;
        };
        out.push_str(before);
        out.push_str(text);
        rest = match after
            .strip_prefix('(')
            .and_then(|target| target.split_once(')'))
        {
            Some((_, after)) => after,
            None => after,
        };
    }
    out + rest
}

/// The public names of a file.
fn names(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    for item in source.split("\npub use ").skip(1) {
        let path = item.split(';').next().unwrap_or_default();
        let list = match path.split_once('{') {
            Some((_, list)) => list.trim_end().trim_end_matches('}'),
            None => path.rsplit("::").next().unwrap_or_default(),
        };
        let own = list
            .split(',')
            .map(|name| name.rsplit("::").next().unwrap_or(name));
        let own = own.map(|name| name.trim().to_owned());
        names.extend(own.filter(|name| !name.is_empty()));
    }
    names
}

#[test]
fn every_public_name_is_on_a_page() {
    let mut page = "# Public names\n\nEvery module of the library, and the package `batchwright-exec`, with what \
         it is for and the names to use. `cargo doc --open` shows each name with its fields, defaults and \
         errors. This page is made from the modules' own documentation.\n"
        .to_owned();
    let mut all = Vec::new();
    for (module, path, feature) in MODULES {
        let source = fs::read_to_string(root().join(path)).unwrap();
        let title = match module {
            "batchwright" => "The root".to_owned(),
            "batchwright-exec" => format!("The package `{module}`"),
            _ => format!("Module `{module}`"),
        };
        page.push_str(&format!("\n## {title}\n\n"));
        if !feature.is_empty() {
            page.push_str(&format!("With the feature `{feature}`.\n\n"));
        }
        let table = match module {
            // The table of modules is the page itself.
            "batchwright" => Vec::new(),
            _ => rows(&source),
        };
        if !table.is_empty() {
            page.push_str("| to | use |\n|---|---|\n");
        }
        for row in &table {
            let cells = row.trim_matches('|').matches(" | ").count();
            // Traits to implement have a separate column.
            let row = if cells > 1 {
                row.replacen(" | ", ": ", 1)
            } else {
                row.clone()
            };
            page.push_str(&format!("{row}\n"));
        }
        let names = names(&source);
        let listed = |name: &&String| !table.iter().any(|row| row.contains(name.as_str()));
        let others: Vec<String> = names
            .iter()
            .filter(listed)
            .map(|name| format!("`{name}`"))
            .collect();
        if !others.is_empty() {
            let gap = if table.is_empty() { "" } else { "\n" };
            page.push_str(&format!("{gap}Names: {}.\n", others.join(", ")));
        }
        all.extend(names);
    }
    let place = root().join("docs/names.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&place, &page).unwrap();
    }
    let there = fs::read_to_string(&place).unwrap_or_default();
    assert!(
        there == page,
        "docs/names.md is not what the modules say: run `UPDATE_DOCS=1 cargo test --test it public_names`"
    );
    assert!(all.len() > 150, "only {} names found", all.len());
    for name in all {
        assert!(page.contains(&name), "{name} is not on the page");
    }
}
