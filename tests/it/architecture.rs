//! The map of the code leads to places that exist.

use std::path::Path;

const MAP: &str = include_str!("../../ARCHITECTURE.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands between backticks, outside of fenced blocks.
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

/// Arguments are the lowest floor of the program and commands the highest.
#[test]
fn in_the_program_arguments_and_helpers_import_no_command() {
    let program = root().join("crates/cli/src");
    for entry in std::fs::read_dir(&program).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut sources = String::new();
        match name.as_str() {
            "main.rs" | "commands" => continue,
            _ if path.is_dir() => read_all(&path, &mut sources),
            _ => sources = std::fs::read_to_string(&path).unwrap(),
        }
        assert!(!sources.contains("commands::"), "{name} imports a command");
        if name == "args" {
            assert!(!sources.contains("crate::"), "{name} imports what uses it");
        }
    }
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
