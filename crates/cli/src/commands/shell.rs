//! `batchwright completions` and `batchwright man`: completion scripts and manual pages, made from the same
//! definitions as the help.

use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::args::Cli;
use crate::args::shell::{CompletionsArgs, ManArgs};
use crate::exit::{About, Exit, Refusal};

pub fn completions(args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "batchwright", &mut script);
    // A reader may close the pipe early.
    let _ = io::stdout().write_all(&script);
    Exit::Success
}

pub fn man(args: &ManArgs) -> Exit {
    let written = match &args.dir {
        Some(dir) => write_pages(dir),
        None => page(&whole()).map(|page| {
            let _ = io::stdout().write_all(&page);
        }),
    };
    match written {
        Ok(()) => Exit::Success,
        Err(error) => Refusal::could_not_run(format!("cannot write the manual: {error}"))
            .about(About::Output)
            .end(false, false),
    }
}

/// All commands, with the full names of subcommands.
fn whole() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

fn write_pages(dir: &Path) -> io::Result<()> {
    let at = |path: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    std::fs::create_dir_all(dir).map_err(|error| at(dir, error))?;
    let mut waiting = vec![whole()];
    while let Some(command) = waiting.pop() {
        waiting.extend(command.get_subcommands().cloned());
        let path = dir.join(Man::new(command.clone()).get_filename());
        std::fs::write(&path, page(&command)?).map_err(|error| at(&path, error))?;
    }
    Ok(())
}

/// A page. The lines of the text after the help are unchanged.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let long = command.get_after_long_help().or(command.get_after_help());
    let notes = long.map(ToString::to_string);
    let bare = command
        .clone()
        .after_help(None::<&str>)
        .after_long_help(None::<&str>);
    let mut page = Vec::new();
    Man::new(bare).render(&mut page)?;
    if let Some(notes) = notes {
        let mut roff = Roff::default();
        roff.control("SH", ["NOTES"]);
        roff.control("nf", []);
        for line in notes.lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
        roff.to_writer(&mut page)?;
    }
    Ok(in_ascii(&String::from_utf8_lossy(&page)).into_bytes())
}

/// The page in ASCII: troff reads bytes unless an encoding is set, but it always understands its names for other
/// characters.
fn in_ascii(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    for c in page.chars() {
        if c.is_ascii() {
            out.push(c)
        } else {
            out.push_str(&format!("\\[u{:04X}]", u32::from(c)))
        }
    }
    out
}
