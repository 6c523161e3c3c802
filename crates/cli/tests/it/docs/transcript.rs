//! Console blocks of a page: found, replayed, compared, and rewritten on request.
//!
//! A block of ```` ```console ```` follows a comment with its requirements: `<!-- transcript; simulate --latency
//! 40; env OPENAI_API_KEY=sk-example
//! -->`. `continue` keeps the folder, the simulator and the environment of the previous transcript; with `counts-vary`,
//! numbers are not compared. Pages always show port 8090 for the simulator.

use super::normal::normal;
use super::root;
use crate::common::{Desk, RunToEnd, Running};

/// The port that pages show.
const SHOWN_PORT: &str = "8090";
/// Stands in a page for any number of lines.
const ANYTHING: &str = "…";
/// Separates the output of one command from that of the next.
const NEXT: &str = "\u{1}next command\u{1}";

/// The requirements of a transcript.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Needs {
    /// Words for `batchwright simulate`.
    pub simulate: Option<String>,
    pub env: Vec<(String, String)>,
    /// It continues where the previous one ended.
    pub continues: bool,
    /// The progress of a killed worker differs between runs, so any number matches.
    pub counts_vary: bool,
}

/// A command as it was typed, and what it printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub command: String,
    pub output: Vec<String>,
}

/// A console block.
#[derive(Debug, PartialEq)]
pub struct Transcript {
    /// The line of the page on which its text begins, from 0.
    pub line: usize,
    /// Number of its lines.
    pub lines: usize,
    pub needs: Needs,
    pub steps: Vec<Step>,
}

/// All console blocks of a page, or the error in one.
pub fn transcripts(page: &str) -> Result<Vec<Transcript>, String> {
    let lines: Vec<&str> = page.lines().collect();
    let mut found = Vec::new();
    let mut needs = None;
    let mut i = 0;
    while i < lines.len() {
        let line = lines[i].trim_end();
        i += 1;
        if let Some(words) = line.strip_prefix("<!-- transcript") {
            let words = words.strip_suffix("-->");
            let words = words.ok_or_else(|| format!("line {i}: the comment does not end"))?;
            needs = Some(parse_needs(words).map_err(|why| format!("line {i}: {why}"))?);
        } else if line == "```console" {
            let end = lines[i..].iter().position(|line| *line == "```");
            let end = i + end.ok_or_else(|| format!("line {i}: the block does not end"))?;
            let needs = needs.take();
            let needs =
                needs.ok_or_else(|| format!("line {i}: no <!-- transcript … --> before"))?;
            let steps = parse_steps(&lines[i..end]).map_err(|why| format!("line {i}: {why}"))?;
            found.push(Transcript {
                line: i,
                lines: end - i,
                needs,
                steps,
            });
            i = end + 1;
        } else if !line.is_empty() {
            needs = None;
        }
    }
    Ok(found)
}

fn parse_needs(words: &str) -> Result<Needs, String> {
    let mut needs = Needs::default();
    for word in words.split(';').map(str::trim).filter(|w| !w.is_empty()) {
        let (name, rest) = word.split_once(' ').unwrap_or((word, ""));
        match name {
            "simulate" => needs.simulate = Some(rest.to_owned()),
            "continue" => needs.continues = true,
            "counts-vary" => needs.counts_vary = true,
            "env" => {
                let pair = rest.split_once('=').ok_or("env needs NAME=VALUE")?;
                needs.env.push((pair.0.to_owned(), pair.1.to_owned()));
            }
            other => return Err(format!("a transcript cannot need {other:?}")),
        }
    }
    Ok(needs)
}

fn parse_steps(lines: &[&str]) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut continued = false;
    let mut here_document: Option<String> = None;
    for line in lines {
        let typed = continued || here_document.is_some();
        match (steps.last_mut(), line.strip_prefix("$ ")) {
            (Some(step), _) if typed => {
                step.command.push('\n');
                step.command.push_str(line);
            }
            (_, Some(command)) => steps.push(Step {
                command: command.to_owned(),
                output: Vec::new(),
            }),
            (Some(step), None) => {
                step.output.push((*line).to_owned());
                continue;
            }
            (None, None) => return Err("a transcript begins with `$ `".to_owned()),
        }
        match &here_document {
            Some(end) if end != line => {}
            Some(_) => here_document = None,
            None => {
                let word = line
                    .split_once("<<'")
                    .and_then(|(_, rest)| rest.split_once('\''));
                here_document = word.map(|(word, _)| word.to_owned());
            }
        }
        continued = here_document.is_none() && line.ends_with('\\');
    }
    Ok(steps)
}

/// The place where the transcripts of a page are replayed, one after the other.
pub struct Stage {
    desk: Desk,
    simulator: Option<(Running, String)>,
    env: Vec<(String, String)>,
}

impl Stage {
    fn new(needs: &Needs) -> Self {
        let desk = Desk::new();
        let data = root().join("examples/data");
        std::fs::create_dir(desk.path("examples")).unwrap();
        std::os::unix::fs::symlink(data, desk.path("examples/data")).unwrap();
        std::fs::create_dir(desk.path("bin")).unwrap();
        let program = env!("CARGO_BIN_EXE_batchwright");
        std::os::unix::fs::symlink(program, desk.path("bin/batchwright")).unwrap();
        let simulator = needs.simulate.as_ref().map(|words| {
            let words = format!("simulate --port 0 {words}");
            let running = Running::start(&mut desk.command(words.split_whitespace()));
            running.hears("http://127.0.0.1:");
            let said = running.said();
            let (_, address) = said.split_once("http://127.0.0.1:").unwrap();
            let port: String = address.chars().take_while(char::is_ascii_digit).collect();
            (running, port)
        });
        Self {
            desk,
            simulator,
            env: Vec::new(),
        }
    }

    fn port(&self) -> &str {
        self.simulator.as_ref().map_or(SHOWN_PORT, |(_, port)| port)
    }

    /// Runs the commands and returns the output of each.
    fn play(&self, steps: &[Step]) -> Vec<Vec<String>> {
        let mut script = String::from("exec 2>&1\n");
        for step in steps {
            script.push_str(&step.command.replace(SHOWN_PORT, self.port()));
            script.push_str(&format!("\nprintf '{NEXT}\\n'\n"));
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut bash = self.desk.other("bash", ["-c", &script]);
        bash.env(
            "PATH",
            format!("{}:{path}", self.desk.path("bin").display()),
        )
        .env("COLUMNS", "100");
        for (name, value) in &self.env {
            bash.env(name, value.replace(SHOWN_PORT, self.port()));
        }
        let printed = bash.ended().stdout;
        let folder = self.desk.path("");
        let folder = folder.to_string_lossy();
        let printed = printed
            .replace(folder.trim_end_matches('/'), "/home/you/data")
            // The target of links from there.
            .replace(&*root().to_string_lossy(), "/home/you/data")
            .replace(self.port(), SHOWN_PORT);
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        let mut outputs: Vec<Vec<String>> = printed
            .split(&format!("{NEXT}\n"))
            .map(|text| lines(text.trim_end_matches('\n')))
            .collect();
        outputs.truncate(steps.len());
        outputs
    }
}

/// Replays all transcripts of a page. Returns the corrected page, and the differences.
pub fn replay(page: &str) -> Result<(String, Vec<String>), String> {
    let mut stage: Option<Stage> = None;
    let mut lines: Vec<String> = page.lines().map(str::to_owned).collect();
    let mut differences = Vec::new();
    // A rewritten block may have another length than the old one.
    let mut moved: isize = 0;
    for found in transcripts(page)? {
        let mut now = match stage.take() {
            Some(stage) if found.needs.continues => stage,
            None if found.needs.continues => return Err("nothing to continue".to_owned()),
            _ => Stage::new(&found.needs),
        };
        now.env.extend(found.needs.env.iter().cloned());
        let printed = now.play(&found.steps);
        let mut text = Vec::new();
        for (step, printed) in found.steps.iter().zip(printed) {
            text.extend(format!("$ {}", step.command).lines().map(str::to_owned));
            if fits(&step.output, &printed, found.needs.counts_vary) {
                text.extend(step.output.iter().cloned());
                continue;
            }
            differences.push(format!(
                "line {}: $ {}\n--- the page says\n{}\n--- it prints\n{}\n",
                found.line,
                step.command,
                step.output.join("\n"),
                printed.join("\n"),
            ));
            text.extend(printed);
        }
        let start = found.line.saturating_add_signed(moved);
        moved += text.len() as isize - found.lines as isize;
        lines.splice(start..start + found.lines, text);
        stage = Some(now);
    }
    Ok((lines.join("\n") + "\n", differences))
}

/// Whether the output matches the page, apart from times, rates, ids and similar parts.
fn fits(shown: &[String], printed: &[String], counts_vary: bool) -> bool {
    let counted = |line: String| {
        if counts_vary {
            line.replace(|c: char| c.is_ascii_digit(), "")
        } else {
            line
        }
    };
    let essential = |lines: &[String]| -> Vec<String> {
        let lines = lines.iter().map(|line| counted(normal(line)));
        lines.filter(|line| !line.is_empty()).collect()
    };
    matches(&essential(shown), &essential(printed))
}

fn matches(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == ANYTHING => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((line, rest)) => {
            printed.first() == Some(line) && matches(rest, printed.get(1..).unwrap_or_default())
        }
    }
}

#[test]
fn differences_are_reported_and_rewritten() {
    let page = "<!-- transcript -->\n```console\n$ echo one; echo two\none\nthree\n$ echo x\nx\n```\nend\n";
    let (written, differences) = replay(page).unwrap();
    assert_eq!(differences.len(), 1);
    let wanted = page.replace("three", "two");
    assert_eq!(written, wanted);
    assert!(replay(&wanted).unwrap().1.is_empty());
    let cut = wanted.replace("one\ntwo", "one\n…");
    assert!(replay(&cut).unwrap().1.is_empty());
}
