use std::fs;

use super::*;

/// A folder with these files.
pub(crate) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Names below the folder, with the kinds of the reasons.
fn listed(scanner: &FileScanner, folder: &Path) -> Vec<String> {
    let files = scanner.scan_directory(folder, &Context::new()).unwrap();
    let shown = |file: &FileInfo| {
        assert_eq!(file.is_valid, file.skip_reason.is_none());
        let name = shown_path(file.path.strip_prefix(folder).unwrap()).into_owned();
        match &file.skip_reason {
            None => name,
            Some(reason) => format!("{name} {}", reason.kind()),
        }
    };
    files.iter().map(shown).collect()
}

/// The names below the folder that a scan finds.
#[track_caller]
fn finds(scanner: &FileScanner, folder: &Path, expected: &[&str]) {
    assert_eq!(listed(scanner, folder), expected);
}

#[test]
fn names_are_selected_by_patterns_types_and_ignore_files() {
    let folder = tree(&[
        (".git/HEAD", ""),
        (".gitignore", "out/\n"),
        (".ignore", "gen.py\n"),
        (".hidden/a.py", ""),
        (".hidden.md", ""),
        ("a.py", "x = 1\n"),
        ("b/c.py", ""),
        ("b/gen.py", ""),
        ("b/read me\n.md", ""),
        ("out/d.py", ""),
        ("vendor/e.py", ""),
    ]);
    let all = FileScanner::new();
    let python = all.clone().pattern("**/*.py");
    let find = |scanner: &FileScanner, expected: &[&str]| finds(scanner, folder.path(), expected);
    find(&all, &["a.py", "b/c.py", "b/read me\n.md", "vendor/e.py"]);
    // A pattern selects only among files that are neither ignored nor hidden.
    find(&python, &["a.py", "b/c.py", "vendor/e.py"]);
    find(&python.clone().pattern("!vendor"), &["a.py", "b/c.py"]);
    find(&all.clone().pattern("/*.py"), &["a.py"]);
    let notes = all.pattern("*.md");
    find(&notes, &["b/read me\n.md"]);
    find(&notes.hidden(true), &[".hidden.md", "b/read me\n.md"]);
    let everything = python.hidden(true).ignore_files(false);
    let python = [
        ".hidden/a.py",
        "a.py",
        "b/c.py",
        "b/gen.py",
        "out/d.py",
        "vendor/e.py",
    ];
    find(&everything, &python);
}

#[test]
fn unusable_files_are_reported_with_the_reason() {
    let folder = tree(&[
        ("a.py", "ok"),
        ("b.py", "a\0"),
        ("c.rs", "x"),
        ("d.py", "0123456789ab"),
    ]);
    fs::write(folder.path().join("e.py"), b"a\n\xff").unwrap();
    let scanner = FileScanner::new().extensions(["PY"]).max_file_size(11);
    let found = [
        "a.py",
        "b.py binary",
        "c.rs extension",
        "d.py too_large",
        "e.py not_utf8",
    ];
    finds(&scanner, folder.path(), &found);
    let by_name = ["a.py", "b.py", "c.rs extension", "d.py too_large", "e.py"];
    finds(
        &scanner.clone().check_contents(false),
        folder.path(),
        &by_name,
    );

    let named = ["e.py", "a.py", "gone.py"].map(|name| folder.path().join(name));
    let judged = scanner
        .filter_files(named.clone(), &Context::new())
        .unwrap();
    let paths: Vec<&PathBuf> = judged.iter().map(|file| &file.path).collect();
    assert_eq!(paths, named.iter().collect::<Vec<_>>());
    assert!(judged[1].is_valid && judged[1].size == 2 && judged[1].modified_time.is_some());
    assert_eq!(judged[2].skip_reason.as_ref().unwrap().kind(), "unreadable");
}

#[cfg(unix)]
#[test]
fn links_are_skipped_or_followed_and_cycles_are_detected() {
    use std::os::unix::fs::symlink;

    let folder = tree(&[("a/b/c.py", "x"), ("d.py", "y")]);
    let at = |name: &str| folder.path().join(name);
    symlink(at("d.py"), at("link.py")).unwrap();
    symlink(at("a"), at("a/b/round")).unwrap();
    symlink(at("nowhere"), at("dangling.py")).unwrap();
    let scanner = FileScanner::new();
    let links = ["a/b/round", "dangling.py", "link.py"].map(|name| format!("{name} symbolic_link"));
    let expected = ["a/b/c.py", &links[0], "d.py", &links[1], &links[2]];
    finds(&scanner, folder.path(), &expected);
    let follow = scanner.symlinks(SymlinkPolicy::Follow);
    let expected = [
        "a/b/c.py",
        "a/b/round loop",
        "d.py",
        "dangling.py unreadable",
        "link.py",
    ];
    finds(&follow, folder.path(), &expected);
    let judged = follow
        .filter_files([at("link.py")], &Context::new())
        .unwrap();
    assert!(judged[0].is_valid);
}

#[test]
fn errors_of_a_scan_name_the_cause() {
    let folder = tree(&[("a.py", "")]);
    let refused = |scanner: FileScanner, path: &Path| {
        let error = scanner.scan_directory(path, &Context::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.message().to_owned()
    };
    let within = |name: &str| folder.path().join(name);
    let new = FileScanner::new;
    for (found, said) in [
        (
            refused(new(), &within("a.py")),
            "a.py: found a file; expected a folder",
        ),
        (refused(new(), &within("b")), "b: the folder does not exist"),
        (
            refused(new().pattern("a[.py"), &within("")),
            "the pattern \"a[.py\" is invalid: ",
        ),
    ] {
        assert!(found.contains(said), "{found}");
    }

    let ctx = Context::new();
    ctx.cancel();
    let stopped = FileScanner::new()
        .scan_directory(folder.path(), &ctx)
        .unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Cancelled);
}

#[test]
fn patterns_match_their_files() {
    let folder = tree(&[
        ("#a#", ""),
        ("#x#/e.py", ""),
        ("a.py", ""),
        ("src/b.py", ""),
        ("src/c/d.py", ""),
    ]);
    let at = folder.path().to_str().unwrap();
    let (all, deep) = (
        "#a# #x#/e.py a.py src/b.py src/c/d.py",
        "src/b.py src/c/d.py",
    );
    for (patterns, expected) in [
        ("*.py", &all[4..]),
        ("**/*.py", &all[4..]),
        ("/*.py", "a.py"),
        ("./*.py", "a.py"),
        ("!./*.py", "#a# #x#/e.py src/b.py src/c/d.py"),
        ("src", deep),
        ("src/", deep),
        ("./src", deep),
        ("/src", deep),
        ("./src/", deep),
        ("./src/**", deep),
        ("s*/", deep),
        ("c", "src/c/d.py"),
        ("#a#", "#a#"),
        ("#x#", "#x#/e.py"),
        ("!src", "#a# #x#/e.py a.py"),
        ("src !b.py", "src/c/d.py"),
        ("./", all),
        (&format!("{at}/src/*.py"), "src/b.py"),
        (&format!("!{at}/src/*.py"), "#a# #x#/e.py a.py src/c/d.py"),
        (at, all),
        (&format!("{at}er/*.py"), ""),
    ] {
        let patterns = patterns.split(' ');
        let scanner = patterns
            .clone()
            .fold(FileScanner::new(), |all, one| all.pattern(one));
        assert_eq!(
            listed(&scanner, folder.path()).join(" "),
            expected,
            "{patterns:?}"
        );
    }
}

#[test]
fn named_files_are_skipped_by_ignore_files() {
    let folder = tree(&[
        (".gitignore", "out/\n*.log\n!keep.log\n"),
        ("a.py", "x"),
        (".hidden.py", "x"),
        ("a.log", "x"),
        ("keep.log", "x"),
        ("out/b.py", "x"),
        ("sub/.gitignore", "/c.py\n"),
        ("sub/c.py", "x"),
        ("sub/d.py", "x"),
    ]);
    fs::create_dir(folder.path().join(".git")).unwrap();
    let names = [
        "sub/d.py",
        "sub/c.py",
        "out/b.py",
        "keep.log",
        "a.log",
        "a.py",
        ".hidden.py",
        "sub/../a.log",
    ];
    let judged = |scanner: FileScanner| -> Vec<&str> {
        let files = names.map(|name| folder.path().join(name));
        let judged = scanner.filter_files(files, &Context::new()).unwrap();
        let reason = |file: &FileInfo| file.skip_reason.as_ref().map_or("", SkipReason::kind);
        judged.iter().map(reason).collect()
    };
    let ignored = ["", "ignored", "ignored", "", "ignored", "", "", "ignored"];
    assert_eq!(judged(FileScanner::new()), ignored);
    assert_eq!(judged(FileScanner::new().ignore_files(false)), [""; 8]);
    // The named files that remain are those that a scan finds.
    let scanned = listed(&FileScanner::new(), folder.path());
    assert_eq!(scanned, ["a.py", "keep.log", "sub/d.py"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_in_place_of_an_ignore_file_is_refused() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    for place in ["", "b"] {
        let folder = tree(&[("a.py", ""), ("b/c.py", "")]);
        let pipe = folder.path().join(place).join(".ignore");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let (scanner, ctx) = (FileScanner::new(), Context::new());
        let below = folder.path().join("b");
        let refused = [
            scanner.scan_directory(folder.path(), &ctx),
            scanner.scan_directory(&below, &ctx),
            scanner.filter_files([below.join("c.py")], &ctx),
        ];
        for found in refused {
            let error = found.unwrap_err();
            assert!(error.message().contains(".ignore: it is not"), "{error}");
        }
        finds(
            &scanner.ignore_files(false),
            folder.path(),
            &["a.py", "b/c.py"],
        );
    }
}
