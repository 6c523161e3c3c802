//! ARCHITECTURE.md names only paths and tests that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const MAP: &str = include_str!("../../ARCHITECTURE.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Texts between backticks, outside of fenced blocks.
fn quoted() -> Vec<&'static str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in MAP.lines() {
        fenced ^= line.starts_with("```");
        if !fenced {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

#[test]
fn every_path_on_the_map_exists() {
    let paths: Vec<&str> = quoted()
        .into_iter()
        .filter(|word| word.contains('/') && !word.contains(' '))
        .collect();
    assert!(paths.len() > 60, "the map names {} paths", paths.len());
    let gone: Vec<&&str> = paths
        .iter()
        .filter(|path| !root().join(path).exists())
        .collect();
    assert!(
        gone.is_empty(),
        "ARCHITECTURE.md names what is not there: {gone:?}"
    );
}

#[test]
fn every_test_on_the_map_exists() {
    let names: Vec<&str> = quoted()
        .into_iter()
        .filter(|word| word.matches('_').count() >= 3 && !word.contains(['/', '.', ' ']))
        .collect();
    assert!(names.len() >= 3, "{names:?}");
    let mut sources = String::new();
    for folder in ["src", "tests", "crates"] {
        read_all(&root().join(folder), &mut sources);
    }
    for name in names {
        let found = sources.contains(&format!("fn {name}("));
        assert!(
            found,
            "ARCHITECTURE.md names the test {name}, which is not there"
        );
    }
}

#[test]
fn every_folder_of_the_library_is_on_the_map() {
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let known =
                MAP.contains(&format!("src/{name}/")) || MAP.contains(&format!("src/{name}.rs"));
            assert!(known, "ARCHITECTURE.md says nothing of src/{name}");
        }
    }
}

/// Arguments are the lowest layer of the program, and commands the highest.
#[test]
fn arguments_and_helpers_of_the_program_import_no_command() {
    let program = root().join("crates/cli/src");
    for entry in std::fs::read_dir(&program).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut sources = String::new();
        match name.as_str() {
            // The two programs, and the commands.
            "main.rs" | "sandbox_helper.rs" | "commands" => continue,
            _ if path.is_dir() => read_all(&path, &mut sources),
            _ => sources = std::fs::read_to_string(&path).unwrap(),
        }
        assert!(!sources.contains("commands::"), "{name} imports a command");
        if name == "args" {
            assert!(!sources.contains("crate::"), "{name} imports what uses it");
        }
    }
}

/// The layers of the library, the lowest first. A folder imports only from lower layers.
const FLOORS: [&[&str]; 9] = [
    &["base"],
    &["config", "engine"],
    &["observe"],
    &["llm", "pool"],
    &["sources"],
    &["bulk"],
    &["processing"],
    &["queue"],
    &["assembly"],
];

#[test]
fn library_folders_import_only_lower_folders() {
    let floor = |module: &str| {
        let top = module.split("::").next().unwrap_or_default();
        FLOORS.iter().position(|floor| floor.contains(&top))
    };
    let mut arrows = 0;
    for (file, imported) in imports(&root().join("src")) {
        for other in imported {
            let (Some(from), Some(to)) = (floor(&file), floor(&other)) else {
                continue;
            };
            let same = file.split("::").next() == other.split("::").next();
            assert!(same || from > to, "{file} imports {other}, which is above");
            arrows += 1;
        }
    }
    assert!(arrows > 500, "only {arrows} imports found");
}

#[test]
fn files_have_no_import_cycles() {
    for sources in [
        "src",
        "crates/cli/src",
        "crates/exec/src",
        "crates/jobs/src",
        "crates/simulate/src",
        "crates/tables/src",
    ] {
        let mut graph = imports(&root().join(sources));
        // A file is in no cycle if it imports none of the remaining files.
        loop {
            let ends: Vec<String> = graph
                .iter()
                .filter(|(_, imported)| !imported.iter().any(|other| graph.contains_key(other)))
                .map(|(file, _)| file.clone())
                .collect();
            if ends.is_empty() {
                break;
            }
            ends.iter().for_each(|file| drop(graph.remove(file)));
        }
        // The same from the other end, so that only cycles and the files between them remain.
        loop {
            let imported: BTreeSet<String> = graph.values().flatten().cloned().collect();
            let before = graph.len();
            graph.retain(|file, _| imported.contains(file));
            if graph.len() == before {
                break;
            }
        }
        let left: Vec<&String> = graph.keys().collect();
        assert!(left.is_empty(), "import each other in {sources}: {left:?}");
    }
}

/// The modules of its own crate that each file imports, without tests. Declaring and re-exporting a module's own
/// children is not an import.
fn imports(sources: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut files = BTreeMap::new();
    collect(sources, "", &mut files);
    let owner = |path: &[&str]| {
        (1..=path.len())
            .rev()
            .map(|length| path[..length].join("::"))
            .find(|module| files.contains_key(module))
    };
    let mut graph = BTreeMap::new();
    for (file, text) in &files {
        let mut imported = BTreeSet::new();
        let own: Vec<&str> = file.split("::").collect();
        let code = text.split("\n#[cfg(test)]").next().unwrap_or_default();
        for line in statements(code) {
            for path in leaves(&line) {
                let mut names: Vec<&str> = path.split("::").collect();
                let full: Vec<&str> = match names[0] {
                    "crate" => names.split_off(1),
                    "super" => {
                        let up = names.iter().take_while(|name| **name == "super").count();
                        let above = own.len().saturating_sub(up);
                        own[..above]
                            .iter()
                            .copied()
                            .chain(names.split_off(up))
                            .collect()
                    }
                    _ => continue,
                };
                let Some(other) = owner(&full) else { continue };
                let declares =
                    file.starts_with(&format!("{other}::")) && is_only_a_list(&files[&other]);
                if other != *file && !declares {
                    imported.insert(other);
                }
            }
        }
        graph.insert(file.clone(), imported);
    }
    graph
}

/// Whether a module only declares its children and re-exports their names.
fn is_only_a_list(text: &str) -> bool {
    !text.contains("\nfn ") && !text.contains(" fn ") && !text.contains("struct ")
}

/// The texts of all files by module, without tests.
fn collect(folder: &Path, module: &str, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let of_tests = stem.ends_with("tests") || stem.starts_with("test_");
        let name = match module {
            "" => stem.clone(),
            _ => format!("{module}::{stem}"),
        };
        if of_tests || (module.is_empty() && ["lib", "main"].contains(&&*stem)) {
            continue;
        } else if path.is_dir() {
            collect(&path, &name, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = match &*stem {
                "mod" => module.to_owned(),
                _ => name,
            };
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The `use` statements of a text, without blanks.
fn statements(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        let rest = line
            .strip_prefix("pub(crate) ")
            .or(line.strip_prefix("pub(super) "));
        let rest = rest.or(line.strip_prefix("pub ")).unwrap_or(line);
        let Some(path) = rest.strip_prefix("use ") else {
            continue;
        };
        let mut statement = path.to_owned();
        while !statement.contains(';') {
            statement.push_str(lines.next().unwrap_or(";"));
        }
        let end = statement.find(';').unwrap_or(statement.len());
        statement.truncate(end);
        let one = statement.split(" as ").next().unwrap_or_default();
        let whole = if statement.contains('{') {
            &statement
        } else {
            one
        };
        found.push(whole.replace(char::is_whitespace, ""));
    }
    found
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn leaves(path: &str) -> Vec<String> {
    let Some(open) = path.find('{') else {
        return vec![path.to_owned()];
    };
    let (head, rest) = path.split_at(open);
    let inner = rest[1..].strip_suffix('}').unwrap_or(&rest[1..]);
    let (mut found, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = &inner[start..at];
                start = at + 1;
                if !part.is_empty() {
                    found.extend(leaves(part).into_iter().map(|leaf| format!("{head}{leaf}")));
                }
            }
            _ => {}
        }
    }
    found
}

fn read_all(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
