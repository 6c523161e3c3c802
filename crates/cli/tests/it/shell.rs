//! Completions and manual pages, checked with the programs that read them.

use std::process::{Command, Output};

use super::common::Desk;

/// The output of a program; `None` if it is not installed.
fn run(program: &str, args: &[&str]) -> Option<Output> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(output),
        Err(_) => {
            println!("skipped: there is no {program}");
            None
        }
    }
}

#[test]
fn bash_completes_commands_and_flags() {
    let desk = Desk::new();
    let script = desk.plain("completions bash").expect(0).stdout;
    desk.write("script", &script);
    let file = desk.path("script").to_str().unwrap().to_owned();
    // The completions that bash would offer after these words.
    let ask = "set -u; source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
               word=${COMP_WORDS[$COMP_CWORD]}; before=${COMP_WORDS[$((COMP_CWORD - 1))]}; \
               _batchwright batchwright \"$word\" \"$before\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let Some(checked) = run("bash", &["-n", &file]) else {
        return;
    };
    assert!(
        checked.status.success() && checked.stderr.is_empty(),
        "{checked:?}"
    );
    for (words, offered) in [
        (&["batchwright", "ru"][..], "run"),
        (&["batchwright", "run", "--max-i"], "--max-items"),
        (&["batchwright", "run", "--on-error", ""], "stop-critical"),
        (&["batchwright", "completions", "fi"], "fish"),
    ] {
        let mut args = vec!["-c", ask, "bash", &file];
        args.extend(words);
        let output = run("bash", &args).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.lines().any(|line| line == offered),
            "{words:?}: {text}"
        );
        assert!(
            output.stderr.is_empty(),
            "{:?}",
            String::from_utf8(output.stderr)
        );
    }
}

#[test]
fn every_shell_has_a_script_that_knows_the_flags() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = desk.plain(&format!("completions {shell}")).expect(0).stdout;
        assert!(script.contains("max-items"), "{shell}");
    }
    desk.plain("completions tcsh").ends(2, "powershell");
}

#[test]
fn the_manual_has_one_page_per_command_that_groff_accepts() {
    let desk = Desk::new();
    let top = desk.plain("man").expect(0).stdout;
    desk.plain("man pages/man1").expect(0);
    assert_eq!(desk.read("pages/man1/batchwright.1"), top);
    let run_page = desk.read("pages/man1/batchwright-run.1");
    assert!(
        run_page.contains("max\\-items") && run_page.contains("Exit codes"),
        "{run_page}"
    );
    assert!(desk.exists("pages/man1/batchwright-config-set.1"));
    for page in std::fs::read_dir(desk.path("pages/man1")).unwrap() {
        let page = page.unwrap().path();
        let page = page.to_str().unwrap();
        let Some(output) = run("groff", &["-man", "-Tutf8", "-ww", page]) else {
            break;
        };
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.is_empty(), "{page}: {said}");
        let text = String::from_utf8(output.stdout).unwrap();
        if page.ends_with("batchwright-run.1") {
            // Separate lines are not joined.
            let line = text.lines().find(|line| line.contains("4 stopped early"));
            assert!(
                line.is_some_and(|line| line.contains("1 could not run")),
                "{text}"
            );
        }
    }
    desk.write("file", "");
    desk.plain("man file/man1")
        .ends(1, "cannot write the manual");
}
