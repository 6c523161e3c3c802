//! Speech: converts a text to audio. The audio depends only on the text and the voice, so tests detect a client that
//! loses, repeats or swaps a part of it.

use super::rules::{self, Fault};
use super::trouble::prompt_key;

/// Samples a second.
const RATE: u32 = 24_000;
/// How long a character sounds.
const SAMPLES_PER_CHAR: usize = 480;

/// The samples of the sound that the simulator gives for a text: 24,000 a second, 20 ms for a character.
///
/// ```
/// use batchwright_simulate::speech;
///
/// assert_eq!(speech("hello", "alloy").len(), 5 * 480);
/// assert_ne!(speech("hello", "alloy"), speech("hello", "nova"));
/// ```
pub fn speech(text: &str, voice: &str) -> Vec<i16> {
    let key = prompt_key(voice);
    let tone = |letter: char| {
        let height = (prompt_key(letter.encode_utf8(&mut [0; 4])) ^ key) as u16 & 0x3fff;
        let height = i16::try_from(height).unwrap_or(i16::MAX) | 1;
        (0..SAMPLES_PER_CHAR).map(move |i| match i / 60 % 2 {
            0 => height,
            _ => -height,
        })
    };
    text.chars().flat_map(tone).collect()
}

/// A request for speech.
#[derive(Debug)]
pub(super) struct Speech {
    pub(super) model: String,
    pub(super) text: String,
    voice: String,
}

impl Speech {
    /// Reads a request in OpenAI's form.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let root = rules::read(body, "openai", "speech")?;
        let field = |name: &str| root[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            model: field("model"),
            text: field("input"),
            voice: field("voice"),
        })
    }

    /// Appends a WAV file. Like a server that sends audio while it is generated, it does not declare the length.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(b"RIFF");
        out.extend(u32::MAX.to_le_bytes());
        out.extend(b"WAVEfmt ");
        out.extend(16_u32.to_le_bytes());
        out.extend([1_u16, 1].map(u16::to_le_bytes).as_flattened());
        out.extend([RATE, 2 * RATE].map(u32::to_le_bytes).as_flattened());
        out.extend([2_u16, 16].map(u16::to_le_bytes).as_flattened());
        out.extend(b"data");
        out.extend(u32::MAX.to_le_bytes());
        let samples = speech(&self.text, &self.voice).into_iter();
        out.extend(samples.flat_map(i16::to_le_bytes));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::test_client::with;

    #[test]
    fn what_the_api_refuses_is_refused() {
        let good =
            json!({"model": "tts-1", "input": "hi", "voice": "nova", "response_format": "wav"});
        let read = |body: &Value| Speech::parse(body.to_string().as_bytes());
        let mut sound = Vec::new();
        read(&good).unwrap().write(&mut sound);
        assert_eq!(sound.len(), 44 + 2 * 2 * SAMPLES_PER_CHAR);
        for fields in [
            r#"{"model": null}"#,
            r#"{"voice": "nobody"}"#,
            r#"{"input": ""}"#,
            &json!({"input": "a".repeat(4_097)}).to_string(),
            r#"{"speed": 5}"#,
            r#"{"response_format": "mp3"}"#,
            r#"{"temperature": 0}"#,
        ] {
            assert!(read(&with(good.clone(), fields)).is_err(), "{fields}");
        }
    }
}
