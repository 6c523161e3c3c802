//! Texts cut for a speech endpoint, and the sound that comes back put into one file.

/// What the endpoint takes at once, in characters.
pub(super) const MOST_CHARS: usize = 4096;

/// The text in pieces of at most `most` characters, in its order and without a word lost: cut behind the end of a
/// sentence where there is one, else at a blank, else within the word.
pub(super) fn chunks(text: &str, most: usize) -> Vec<&str> {
    let mut chunks = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.char_indices().nth(most).map(|(at, _)| at);
        let Some(end) = end else {
            chunks.push(rest);
            break;
        };
        let cut = cut(rest, end);
        chunks.push(rest[..cut].trim_end());
        rest = rest[cut..].trim_start();
    }
    chunks
}

/// Where to cut a text of which no more than `end` bytes may go first.
fn cut(text: &str, end: usize) -> usize {
    let head = &text[..end];
    let after = |(at, letter): (usize, char)| at + letter.len_utf8();
    let next_is_blank = |at: usize| text[at..].starts_with(char::is_whitespace);
    let sentence = head.char_indices().rev().find(|(at, letter)| match letter {
        '。' | '！' | '？' => true,
        '.' | '!' | '?' | '…' => next_is_blank(at + letter.len_utf8()),
        '\n' => !head[..*at].trim().is_empty(),
        _ => false,
    });
    let blank = || {
        head.char_indices()
            .rev()
            .find(|(at, letter)| letter.is_whitespace() && *at > 0)
    };
    match sentence.map(after) {
        Some(at) => at,
        None if next_is_blank(end) => end,
        None => blank().map_or(end, after),
    }
}

/// PCM sound of a WAV file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wav {
    /// Channels, samples a second and bits a sample, which must be the same to be joined.
    pub format: (u16, u32, u16),
    pub samples: Vec<u8>,
}

impl Wav {
    /// Reads a file. Sizes that a server wrote before it knew them (0 or the greatest number) mean: to the end.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let text = |at: usize, text: &[u8]| bytes.get(at..at + text.len()) == Some(text);
        let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if !text(0, b"RIFF") || !text(8, b"WAVE") {
            return Err("the sound is no WAV file".to_owned());
        }
        let (mut at, mut format) = (12, None);
        while let (Some(size), true) = (u32_at(at + 4), at + 8 <= bytes.len()) {
            let body = at + 8;
            let left = bytes.len() - body;
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if text(at, b"fmt ") {
                if u16_at(body) != Some(1) {
                    return Err("the sound is no PCM".to_owned());
                }
                format = u16_at(body + 2)
                    .zip(u32_at(body + 4))
                    .zip(u16_at(body + 14));
            } else if text(at, b"data") {
                let ((channels, rate), bits) = format.ok_or("the sound has no format")?;
                let frame = usize::from(channels) * usize::from(bits / 8);
                if frame == 0 || rate == 0 {
                    return Err("the sound has no format".to_owned());
                }
                let size = if size == 0 { left } else { size.min(left) };
                let samples = bytes[body..body + size - size % frame].to_vec();
                return Ok(Self {
                    format: (channels, rate, bits),
                    samples,
                });
            }
            at = body.saturating_add(size).saturating_add(size % 2);
        }
        Err("the sound ends before its samples".to_owned())
    }

    /// Adds what follows.
    pub(super) fn append(&mut self, next: &Self) -> Result<(), String> {
        if self.format != next.format {
            return Err(format!(
                "sounds of two formats: {:?} and {:?}",
                self.format, next.format
            ));
        }
        self.samples.extend_from_slice(&next.samples);
        Ok(())
    }

    pub(super) fn seconds(&self) -> f64 {
        let (channels, rate, bits) = self.format;
        let bytes = f64::from(rate) * f64::from(channels) * f64::from(bits / 8);
        self.samples.len() as f64 / bytes
    }

    /// The file; `None` where it would be larger than the format can say.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        let (channels, rate, bits) = self.format;
        let size = u32::try_from(self.samples.len()).ok()?;
        let whole = size.checked_add(36)?;
        let frame = channels * (bits / 8);
        let mut out = Vec::with_capacity(self.samples.len() + 44);
        out.extend(b"RIFF");
        out.extend(whole.to_le_bytes());
        out.extend(b"WAVEfmt ");
        out.extend(16_u32.to_le_bytes());
        out.extend(1_u16.to_le_bytes());
        out.extend(channels.to_le_bytes());
        out.extend(rate.to_le_bytes());
        out.extend((rate * u32::from(frame)).to_le_bytes());
        out.extend(frame.to_le_bytes());
        out.extend(bits.to_le_bytes());
        out.extend(b"data");
        out.extend(size.to_le_bytes());
        out.extend(&self.samples);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_sentence_ends_and_lose_no_word() {
        assert_eq!(
            chunks("One. Two three. Four", 10),
            ["One.", "Two three.", "Four"]
        );
        assert_eq!(chunks("v1.2 is out now", 9), ["v1.2 is", "out now"]);
        assert_eq!(
            chunks("雨が降った。川が上がった。", 8),
            ["雨が降った。", "川が上がった。"]
        );
        assert_eq!(chunks("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(chunks("  ", 3), [""; 0]);
        let long = "Ein Satz mit Wörtern, éé und 😀. ".repeat(500);
        for most in [1, 2, 7, 40, MOST_CHARS] {
            let pieces = chunks(&long, most);
            assert!(
                pieces
                    .iter()
                    .all(|p| !p.is_empty() && p.chars().count() <= most)
            );
            let plain = |text: &str| {
                text.chars()
                    .filter(|c| !c.is_whitespace())
                    .collect::<String>()
            };
            assert_eq!(plain(&pieces.concat()), plain(&long));
        }
    }

    #[test]
    fn sounds_are_joined_to_the_sample() {
        let wav = |n: usize| Wav {
            format: (1, 24_000, 16),
            samples: vec![7; 2 * n],
        };
        let mut whole = wav(24_000);
        whole
            .append(&Wav::read(&wav(12_000).bytes().unwrap()).unwrap())
            .unwrap();
        assert_eq!(whole.seconds(), 1.5);
        assert_eq!(Wav::read(&whole.bytes().unwrap()).unwrap(), whole);
        let mut streamed = wav(10).bytes().unwrap();
        streamed[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Wav::read(&streamed).unwrap(), wav(10));
        let other = Wav {
            format: (2, 24_000, 16),
            samples: Vec::new(),
        };
        assert!(whole.append(&other).is_err());
        let bytes = wav(3).bytes().unwrap();
        for end in 0..bytes.len() {
            drop(Wav::read(&bytes[..end]));
        }
    }
}
