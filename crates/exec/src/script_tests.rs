use super::*;
use steps::assert_linear;

#[path = "../../../src/base/steps.rs"]
mod steps;

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
    job.command
        .iter()
        .map(|word| word.to_str().unwrap())
        .collect()
}

fn texts(jobs: &[CommandJob]) -> Vec<String> {
    jobs.iter().map(|job| words(job).join("|")).collect()
}

#[test]
fn scripts_of_all_systems_are_read() {
    let script = b"\xef\xbb\xbf# made on Windows \\\r\necho one\r\n\r\n  \r\necho 'two  three' \\\r\n  four\r\n\
                   echo \"a#b\" # five\r\necho last\\\\";
    let jobs = read(script, |commands| commands).unwrap();
    let wanted = [
        "echo|one",
        "echo|two  three|four",
        "echo|a#b",
        "echo|last\\",
    ];
    assert_eq!(texts(&jobs), wanted);
    let lines = jobs.iter().map(|job| (job.line.unwrap(), job.seq));
    assert_eq!(lines.collect::<Vec<_>>(), [(2, 1), (5, 2), (7, 3), (8, 4)]);
    assert_eq!(jobs[1].text(), "echo 'two  three'   four");
    assert_eq!(jobs[0].id(), "1");
}

#[test]
fn lines_are_continued_where_a_shell_continues_them() {
    let script = b"echo one # first \\\necho two\necho \"a \\\nb\" 'it'\\\n's' # '\\\necho a\\\n#b\necho c\\ \n";
    let wanted = "echo one # first \\\necho two\necho \"a b\" 'it''s' # '\\\necho a#b\necho c\\ ";
    for form in [false, true] {
        let jobs = read(script, |commands| commands.shell(form)).unwrap();
        let texts: Vec<_> = jobs.iter().map(CommandJob::text).collect();
        assert_eq!(texts.join("\n"), wanted);
    }
}

#[test]
fn a_shell_gets_no_incomplete_line() {
    let shell =
        |script: &[u8], nul| read(script, |commands| commands.shell(true).nul_separated(nul));
    for script in [
        "true\necho 'a\nb'\n",
        "true\ncat <<END\nrm -r x\nEND\n",
        "true\nn=$((1+2)); cat <<END\nrm -r x\nEND\n",
        "true\ncat <<< a; x=\"$(cat <<-'END'\nrm -r x\nEND\n)\"\n",
    ] {
        let error = shell(script.as_bytes(), false).unwrap_err();
        assert!(error.message().contains("line 2: ") && error.message().contains("(-0)"));
    }
    let jobs = shell(b"# c\necho 'a\nb'\0cat <<END\nx\nEND\n\0# c\n", true).unwrap();
    assert_eq!(jobs.len(), 2);
    let jobs = b"grep '<<END' a\necho \"1 << 2\" # << x\ncat <<< $((1+2))\n";
    assert_eq!(shell(jobs, false).unwrap().len(), 3);
    let jobs = shell(b"echo x | cat\n# no\n", false).unwrap();
    assert_eq!(texts(&jobs), ["sh|-c|echo x | cat"]);
}

#[test]
fn bytes_that_are_not_utf_8_are_unchanged() {
    use std::os::unix::ffi::OsStrExt;

    let second = |jobs: Vec<CommandJob>| -> Vec<Vec<u8>> {
        let word = |job: &CommandJob| job.command[1].as_bytes().to_vec();
        jobs.iter().map(word).collect()
    };
    let jobs = read(b"cat 'a\xff b'\n", |commands| commands).unwrap();
    assert_eq!(second(jobs), [b"a\xff b"]);
    for (nul, list, wanted) in [
        (
            false,
            &b"a\xff' b\r\n\n# c\n"[..],
            [&b"a\xff' b"[..], b"# c"],
        ),
        (true, b"a\nb\0\\\0", [b"a\nb", b"\\"]),
        (true, b"d\0c\r", [b"d", b"c\r"]),
    ] {
        let cat = Template::new(["cat"]).unwrap();
        let jobs = read(list, |commands| commands.template(cat).nul_separated(nul));
        assert_eq!(second(jobs.unwrap()), wanted);
    }
}

#[test]
fn a_faulty_line_is_named() {
    let pipe = "line 2: `|` is shell syntax, and no shell reads this line: use --shell";
    let long = vec![b'x'; 3 * 1024 * 1024];
    for (script, why) in [
        (&b"true\necho x | cat\n"[..], pipe),
        (
            b"true\n\necho 'x\n",
            "line 3: the quote ' is not closed on its line",
        ),
        (b"echo 'a \\\nb'\n", "line 1: the quote ' is not closed"),
        (b"echo a \\", "line 1: nothing follows the backslash"),
        (b"\xff\xfee\0c\0", "line 1: the file is UTF-16"),
        (b"\xfe\xff\x4e\xca\x65\xe5", "line 1: the file is UTF-16"),
        (b"echo \0", "line 1: the line has a NUL byte"),
        (&long, "longer than 2 MiB"),
    ] {
        let error = read(script, |commands| commands).unwrap_err();
        assert!(error.message().contains(why), "{error}");
    }
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
    for (words, run) in [
        (&["a b", "c"][..], &["echo|a b", "echo|c"][..]),
        (&[""], &["echo|"]),
        (&["", "a", ""], &["echo|", "echo|a", "echo|"]),
        (&[], &[]),
    ] {
        let commands = Commands::list(words).template(Template::new(["echo"]).unwrap());
        let jobs: Vec<_> = commands.into_iter().map(Result::unwrap).collect();
        assert_eq!(texts(&jobs), run);
        assert!(jobs.iter().all(|job| job.line.is_none()));
    }
}

/// Bytes that are allocated while a list of commands is read to its end.
fn allocated(text: &[u8], form: &Form) -> u64 {
    let lines = || Lines {
        name: None,
        source: Box::new(Cursor::new(text.to_vec())),
        nul: false,
        number: 0,
    };
    let mut reader = Reader {
        form: form.clone(),
        ..Reader::default()
    };
    let mut lines = lines();
    steps::allocated(|| while let Ok(Some(_)) = reader.next(&mut lines) {})
}

#[test]
fn what_is_read_is_not_copied_again_and_again_however_long_an_element_is() {
    let template = |template: Result<Template, Error>| Form::Arguments(Arc::new(template.unwrap()));
    let forms = [
        Form::Commands,
        Form::ShellCommands,
        template(Template::new(["echo", "{}", "{/.}"])),
        template(Template::shell(["echo {} {/.}"])),
    ];
    let elements: [&[u8]; 14] = [
        b"a",
        b"\xff",
        b"a ",
        b"'a'",
        b"'",
        b"\"$$(",
        b"a\\\n",
        b"\\\\\\\n",
        b"=",
        b"a=",
        b"#",
        b"${a",
        b"((",
        b"a\r",
    ];
    for element in elements {
        for form in &forms {
            let shown = String::from_utf8_lossy(element);
            assert_linear(&format!("{shown} in {form:?}"), |times| {
                allocated(
                    &[b"echo -", &element.repeat(times)[..], b"\n"].concat(),
                    form,
                )
            });
        }
    }
    assert_linear("placeholders", |times| {
        let text = "echo 'a' {} ".repeat(times / 4);
        steps::allocated(|| drop(Template::shell([text]).unwrap()))
    });
}
