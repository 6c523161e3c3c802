//! Podcasts, from `submit --type generate_podcast` to the audio file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use batchwright_simulate::{SimConfig, speech};
use serde_json::{Value, json};

use super::common::{Desk, PATIENCE, simulator};
use super::job_types::{taken, working};
use super::queue::{database, submit};
use batchwright::ProcessId;

const VOICES: [(&str, &str); 2] = [("Host", "sage"), ("Guest", "echo")];

fn turns(n: usize) -> Vec<(&'static str, &'static str, String)> {
    let turn = |i: usize| {
        let (speaker, voice) = VOICES[i % 2];
        (speaker, voice, format!("This is number {i}, said in Bern."))
    };
    (0..n).map(turn).collect()
}

/// The script that the model writes.
fn script(n: usize) -> String {
    let turns = turns(n).into_iter();
    let turns = turns.map(|(speaker, _, text)| json!({"speaker": speaker, "text": text}));
    json!({"title": "Numbers", "turns": turns.collect::<Vec<_>>()}).to_string()
}

/// Submits the payload of a podcast with two voices.
fn submitted(desk: &Desk) -> ProcessId {
    let voices = VOICES.map(|(_, voice)| voice);
    let payload = json!({"id": "p", "content": "It rained all day in Bern.", "voices": voices, "speech_model": "tts-1"});
    desk.write("in.jsonl", payload.to_string());
    submit(desk, "--type generate_podcast in.jsonl")
}

fn samples(path: &Path) -> Vec<i16> {
    let file = std::fs::read(path).unwrap();
    let (pairs, _) = file[44..].as_chunks();
    pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect()
}

/// The file that a result names, in the folder of podcasts.
#[track_caller]
fn sound(result: &Value, folder: &Path) -> PathBuf {
    let name = result["audio"].as_str().unwrap();
    assert_eq!(Path::new(name).file_name().unwrap(), name, "no path");
    folder.join(name)
}

/// The folder that is used if none is set.
fn unnamed(desk: &Desk) -> PathBuf {
    database(desk).with_file_name("audio")
}

/// Asserts that the file contains the complete text in order, and nothing else.
#[track_caller]
fn says_it_all(result: &Value, folder: &Path, n: usize) {
    let whole = turns(n).into_iter();
    let whole: Vec<i16> = whole
        .flat_map(|(_, voice, text)| speech(&text, voice))
        .collect();
    let path = sound(result, folder);
    assert!(samples(&path) == whole, "{path:?}");
    let seconds = whole.len() as f64 / 24_000.0;
    assert!(
        (result["seconds"].as_f64().unwrap() - seconds).abs() < 0.001,
        "{result}"
    );
}

/// The files in a folder, without hidden folders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The properties of an audio file according to Python: channels, bytes per sample, samples per second, samples.
fn read_by_python(path: &Path) -> Option<String> {
    let code = "import sys, wave; print(*wave.open(sys.argv[1]).getparams()[:4])";
    let said = Command::new("python3")
        .args(["-c", code])
        .arg(path)
        .output()
        .ok()?;
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    Some(String::from_utf8(said.stdout).unwrap().trim().to_owned())
}

#[test]
fn an_article_becomes_valid_audio_in_the_named_folder() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let content = "It rained all day in Bern.";
    let payload = json!({"id": "a", "content": content, "voices": ["onyx"]});
    desk.write("in.jsonl", payload.to_string());
    let id = submit(&desk, "--type generate_podcast in.jsonl");
    let words = "--until-empty --audio-dir casts";
    working(&desk, &sim, words).wait().expect(0);
    let result = &taken(&desk, id)["a"]["result"];
    assert_eq!(result["voices"], json!({"Host": "onyx"}));
    assert!(result["title"].to_string().contains("rained"), "{result}");
    let said = result["script"][0]["text"].as_str().unwrap();
    let path = sound(result, &desk.path("casts"));
    assert!(samples(&path) == speech(said, "onyx"), "{result}");
    if let Some(said) = read_by_python(&path) {
        let count = samples(&path).len();
        assert_eq!(said, format!("1 2 24000 {count}"));
    }
    assert_eq!(files(&desk.path("casts")), [path]);
    assert_eq!(sim.stats().malformed, 0);
}

#[test]
fn billed_audio_is_not_requested_again_after_kills() {
    const TURNS: usize = 60;
    let desk = Desk::new();
    let id = submitted(&desk);
    let config = SimConfig::default().answer(script(TURNS));
    let sim = simulator(config.latency(Duration::from_millis(30)));
    for calls in [0, 20, 40] {
        let mut killed = working(&desk, &sim, "-j 4");
        assert!(sim.wait_until(|s| s.speech_calls > calls, PATIENCE));
        killed.child.kill().unwrap();
        let _ = killed.child.wait();
    }
    working(&desk, &sim, "-j 4 --until-empty").wait().expect(0);
    let results = taken(&desk, id);
    says_it_all(&results["p"]["result"], &unnamed(&desk), TURNS);
    // Each piece is requested once, except the four that were in flight at each kill.
    let stats = sim.stats();
    assert!(stats.speech_calls <= (TURNS + 3 * 4) as u64, "{stats:?}");
    // If no folder is set, it is next to the queue.
    let audio = sound(&results["p"]["result"], &unnamed(&desk));
    assert_eq!(files(&unnamed(&desk)), [audio]);
}
