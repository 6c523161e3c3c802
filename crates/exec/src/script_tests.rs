use super::*;

fn read(bytes: &[u8], form: impl FnOnce(Commands) -> Commands) -> Result<Vec<CommandJob>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs");
    std::fs::write(&path, bytes).unwrap();
    let commands = form(Commands::files([&path]).unwrap());
    let mut checked = Vec::new();
    let total = commands.check(|job| checked.push(job.clone()));
    let jobs: Result<Vec<_>, _> = commands.into_iter().collect();
    assert_eq!(total.is_ok(), jobs.is_ok());
    if let (Ok(total), Ok(jobs)) = (total, &jobs) {
        assert_eq!(total, Some(jobs.len() as u64));
        assert_eq!(&checked, jobs);
    }
    jobs
}

fn words(job: &CommandJob) -> Vec<&str> {
    job.command()
        .iter()
        .map(|word| word.to_str().unwrap())
        .collect()
}

#[test]
fn scripts_of_all_systems_are_read() {
    let script = b"\xef\xbb\xbf# made on Windows \\\r\necho one\r\n\r\n  \r\necho 'two  three' \\\r\n  four\r\n\
                   echo \"a#b\" # five\r\necho last\\\\";
    let jobs = read(script, |commands| commands).unwrap();
    let texts: Vec<Vec<&str>> = jobs.iter().map(words).collect();
    assert_eq!(
        texts,
        [
            vec!["echo", "one"],
            vec!["echo", "two  three", "four"],
            vec!["echo", "a#b"],
            vec!["echo", "last\\"],
        ]
    );
    let lines: Vec<_> = jobs
        .iter()
        .map(|job| (job.line().unwrap(), job.seq()))
        .collect();
    assert_eq!(lines, [(2, 1), (5, 2), (7, 3), (8, 4)]);
    assert_eq!(jobs[1].text(), "echo 'two  three'   four");
    assert_eq!(jobs[0].id(), "1");
}

#[test]
fn lines_are_continued_where_a_shell_continues_them() {
    let script = b"echo one # first \\\necho two\necho \"a \\\nb\" 'it'\\\n's' # '\\\necho a\\\n#b\necho c\\ \n";
    for form in [false, true] {
        let jobs = read(script, |commands| commands.shell(form)).unwrap();
        let texts: Vec<_> = jobs.iter().map(CommandJob::text).collect();
        assert_eq!(
            texts,
            [
                "echo one # first \\",
                "echo two",
                "echo \"a b\" 'it''s' # '\\",
                "echo a#b",
                "echo c\\ "
            ]
        );
    }
    for (script, why) in [
        (
            &b"echo 'a \\\nb'\n"[..],
            "line 1: the quote ' is not closed",
        ),
        (b"echo a \\", "line 1: nothing follows the backslash"),
    ] {
        let error = read(script, |commands| commands).unwrap_err();
        assert!(error.message().contains(why), "{error}");
    }
}

#[test]
fn a_shell_gets_no_incomplete_line() {
    let shell =
        |script: &[u8], nul| read(script, |commands| commands.shell(true).nul_separated(nul));
    for script in ["true\necho 'a\nb'\n", "true\ncat <<END\nrm -r x\nEND\n"] {
        let error = shell(script.as_bytes(), false).unwrap_err();
        assert!(error.message().contains("line 2: ") && error.message().contains("(-0)"));
    }
    let jobs = shell(b"# c\necho 'a\nb'\0cat <<END\nx\nEND\n\0# c\n", true).unwrap();
    assert_eq!(jobs.len(), 2);
}

#[test]
fn bytes_that_are_not_utf_8_are_unchanged() {
    use std::os::unix::ffi::OsStrExt;

    let jobs = read(b"cat 'a\xff b'\n", |commands| commands).unwrap();
    assert_eq!(jobs[0].command()[1].as_bytes(), b"a\xff b");
    let list = |commands: Commands| commands.template(Template::new(["cat"]).unwrap());
    let jobs = read(b"a\xff' b\r\n\n# c\n", list).unwrap();
    assert_eq!(jobs[0].command()[1].as_bytes(), b"a\xff' b");
    assert_eq!(words(&jobs[1]), ["cat", "# c"]);
    let jobs = read(b"a\nb\0\\\0c\r", |commands| {
        list(commands).nul_separated(true)
    })
    .unwrap();
    let names: Vec<_> = jobs.iter().map(|job| job.command()[1].as_bytes()).collect();
    assert_eq!(names, [&b"a\nb"[..], b"\\", b"c\r"]);
}

#[test]
fn a_faulty_line_is_named() {
    for (script, why) in [
        (
            &b"true\necho x | cat\n"[..],
            "line 2: `|` is shell syntax, and no shell reads this line: use --shell",
        ),
        (
            b"true\n\necho 'x\n",
            "line 3: the quote ' is not closed on its line",
        ),
        (b"\xff\xfee\0c\0", "line 1: the file is UTF-16"),
        (b"echo \0", "line 1: the line has a NUL byte"),
    ] {
        let error = read(script, |commands| commands).unwrap_err();
        assert!(error.message().contains(why), "{error}");
    }
    let long = vec![b'x'; 3 * 1024 * 1024];
    let error = read(&long, |commands| commands).unwrap_err();
    assert!(error.message().contains("longer than 2 MiB"), "{error}");
    let shell = read(b"echo x | cat\n# no\n", |commands| commands.shell(true)).unwrap();
    assert_eq!(shell.len(), 1);
    assert_eq!(words(&shell[0]), ["sh", "-c", "echo x | cat"]);
}

#[test]
fn a_file_that_changes_between_its_readings_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs");
    std::fs::write(&path, "true\n").unwrap();
    let commands = Commands::files([&path]).unwrap();
    assert_eq!(commands.check(|_| {}).unwrap(), Some(1));
    std::fs::write(&path, "true\nfalse\n").unwrap();
    let error = commands.into_iter().next().unwrap().unwrap_err();
    assert!(error.message().contains("was changed"), "{error}");
    assert!(Commands::files([folder.path()]).is_err());
}

#[test]
fn words_of_the_command_line_replace_lines() {
    let commands = Commands::list(["a b", "c"]).template(Template::new(["echo"]).unwrap());
    let jobs: Vec<_> = commands.into_iter().map(Result::unwrap).collect();
    assert_eq!(words(&jobs[0]), ["echo", "a b"]);
    assert_eq!((jobs.len(), jobs[1].line()), (2, None));
}
