//! Podcasts, from `submit --type generate_podcast` to the audio file.

use std::path::PathBuf;
use std::time::Duration;

use batchwright_simulate::{SimConfig, speech};
use serde_json::json;

use super::common::{Desk, PATIENCE, simulator};
use super::job_types::{taken, working};
use super::queue::{database, submit};

const TURNS: usize = 60;

/// Speaker, voice and text of each turn.
fn turns() -> Vec<(&'static str, &'static str, String)> {
    let turn = |i: usize| {
        let (speaker, voice) = [("Host", "sage"), ("Guest", "echo")][i % 2];
        (speaker, voice, format!("This is number {i}, said in Bern."))
    };
    (0..TURNS).map(turn).collect()
}

#[test]
fn billed_audio_is_not_requested_again_after_kills() {
    let desk = Desk::new();
    let payload = json!({"id": "p", "content": "It rained all day in Bern.",
        "voices": ["sage", "echo"], "speech_model": "tts-1"});
    desk.input(payload.to_string());
    let id = submit(&desk, "--type generate_podcast in.jsonl");
    // The script that the model writes.
    let spoken = turns();
    let script = spoken.iter();
    let script = script.map(|(speaker, _, text)| json!({"speaker": speaker, "text": text}));
    let script = json!({"title": "Numbers", "turns": script.collect::<Vec<_>>()});
    let config = SimConfig::default().answer(script.to_string());
    let sim = simulator(config.latency(Duration::from_millis(30)));
    for calls in [0, 20, 40] {
        let killed = working(&desk, &sim, "-j 4");
        assert!(sim.wait_until(|s| s.speech_calls > calls, PATIENCE));
        drop(killed);
    }
    working(&desk, &sim, "-j 4 --until-empty").wait().expect(0);
    // Each piece is requested once, except the four that were in flight at each kill.
    let stats = sim.stats();
    assert!(stats.speech_calls <= (TURNS + 3 * 4) as u64, "{stats:?}");
    assert_eq!(stats.malformed, 0);

    // If no folder is set, the only file is next to the queue. It contains the complete text in order, and nothing else.
    let result = taken(&desk, id).remove("p").unwrap()["result"].take();
    let folder = database(&desk).with_file_name("audio");
    let files = std::fs::read_dir(&folder).unwrap();
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    let path = folder.join(result["audio"].as_str().unwrap());
    assert_eq!(files, std::slice::from_ref(&path));
    let sound: Vec<i16> = spoken
        .iter()
        .flat_map(|(_, voice, text)| speech(text, voice))
        .collect();
    let file = std::fs::read(&path).unwrap();
    let (pairs, _) = file[44..].as_chunks();
    let samples: Vec<i16> = pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
    assert!(samples == sound, "{path:?}");
    let seconds = result["seconds"].as_f64().unwrap();
    assert!(
        (seconds - sound.len() as f64 / 24_000.0).abs() < 0.001,
        "{result}"
    );
}
