//! Links between pages, and pages that the table of contents omits.

use super::{pages, root};

/// Targets of `[text](target)`, outside code.
fn targets(page: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_code = false;
    for line in page.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let mut rest = line;
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else {
                break;
            };
            targets.push(target.to_owned());
            rest = after;
        }
    }
    targets
}

/// The anchor of a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn has_anchor(page: &str, name: &str) -> bool {
    page.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| anchor(line) == name)
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for path in pages() {
        let page = std::fs::read_to_string(&path).unwrap();
        for target in targets(&page) {
            // Addresses elsewhere are not requested; items of the library are checked with its documentation.
            if target.contains("://") || target.starts_with("crate::") {
                continue;
            }
            let (file, name) = target.split_once('#').unwrap_or((&target, ""));
            let file = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let there = file.exists()
                && (name.is_empty() || has_anchor(&std::fs::read_to_string(&file).unwrap(), name));
            if !there {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_table_of_contents_names_every_page() {
    let folder = root().join("docs");
    let contents = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let named = targets(&contents);
    for page in pages() {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        if page.starts_with(&folder) && name != "README.md" {
            assert!(named.contains(&name), "docs/README.md does not name {name}");
        }
    }
}
