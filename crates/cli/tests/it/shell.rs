//! Completions, checked with the programs that read them.

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
