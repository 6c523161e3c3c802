//! Cuts texts for a speech endpoint, and joins the resulting audio to one file.

use batchwright::{Error, ErrorKind};

/// Maximum length of a text that the endpoint accepts, in characters.
pub(crate) const MOST_CHARS: usize = 4096;

/// The text in pieces of at most `most` characters, in order and complete: cut after the end of a sentence if
/// possible, otherwise at a blank, otherwise within a word.
pub(crate) fn chunks(text: &str, most: usize) -> Vec<&str> {
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

/// The position at which to cut a text so that the first piece has at most `end` bytes.
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

/// PCM audio of a WAV file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wav {
    pub format: Format,
    pub samples: Vec<u8>,
}

/// Number of bytes before the samples in files that are written here.
pub(crate) const HEADER_BYTES: u64 = 44;
/// Servers that stream audio while they generate it write this size, or a larger one, because the real size is
/// unknown.
const UNKNOWN: u32 = 0x7fff_0000;

impl Wav {
    /// Reads a file. If the size is unknown, the audio extends to the end.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if the audio is truncated or missing, which a retry may fix; [`ErrorKind::Invalid`] if
    /// it has another format.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let error = |kind, why: &str| Error::new(kind, format!("the sound {why}"));
        let invalid = |why| error(ErrorKind::Invalid, why);
        let malformed = |why| error(ErrorKind::Malformed, why);
        if !has(bytes, 0, b"RIFF") || !has(bytes, 8, b"WAVE") {
            return Err(invalid("is no WAV file"));
        }
        let (mut at, mut format) = (12, None);
        while let Some(size) = u32_at(bytes, at + 4) {
            let body = at + 8;
            let left = bytes.len() - body;
            if has(bytes, at, b"fmt ") {
                if left < 16 {
                    break;
                }
                format = Some(format_at(bytes, body).ok_or_else(|| invalid("is no PCM"))?);
            } else if has(bytes, at, b"data") {
                let format = format.ok_or_else(|| invalid("has no format"))?;
                let (channels, _, bits) = format;
                let frame = usize::from(channels) * usize::from(bits / 8);
                let size = match usize::try_from(size) {
                    _ if size == 0 || size >= UNKNOWN => left,
                    Ok(size) if size <= left => size,
                    _ => return Err(malformed("is cut off")),
                };
                let samples = bytes[body..body + size - size % frame].to_vec();
                return if samples.is_empty() {
                    Err(malformed("has no length"))
                } else {
                    Ok(Self { format, samples })
                };
            }
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            at = body.saturating_add(size).saturating_add(size % 2);
        }
        Err(malformed("is cut off"))
    }

    /// The format in the header of a file.
    pub(crate) fn format(head: &[u8]) -> Option<Format> {
        let begins = has(head, 0, b"RIFF") && has(head, 8, b"WAVEfmt ");
        begins.then(|| format_at(head, 20)).flatten()
    }

    pub(crate) fn seconds(&self) -> f64 {
        let (channels, rate, bits) = self.format;
        let bytes = f64::from(rate) * f64::from(channels) * f64::from(bits / 8);
        self.samples.len() as f64 / bytes
    }
}

/// Channels, samples per second and bits per sample; only audio with the same format can be joined.
pub(crate) type Format = (u16, u32, u16);

fn has(bytes: &[u8], at: usize, text: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|bytes| bytes.starts_with(text))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The format of uncompressed samples.
fn format_at(bytes: &[u8], at: usize) -> Option<Format> {
    /// A longer description follows, which begins with the real format.
    const EXTENSIBLE: u16 = 0xfffe;
    let kind = match u16_at(bytes, at)? {
        EXTENSIBLE => u16_at(bytes, at + 24)?,
        kind => kind,
    };
    let channels = u16_at(bytes, at + 2)?;
    let rate = u32_at(bytes, at + 4)?;
    let bits = u16_at(bytes, at + 14)?;
    let is_plain = kind == 1 && (1..=64).contains(&channels) && [8, 16, 24, 32].contains(&bits);
    (is_plain && (1..=768_000).contains(&rate)).then_some((channels, rate, bits))
}

/// The header for this number of bytes of samples. If the format cannot express the number, the header has its
/// maximum.
pub(crate) fn header((channels, rate, bits): Format, size: u32) -> [u8; HEADER_BYTES as usize] {
    let frame = channels * (bits / 8);
    let mut out = [0; HEADER_BYTES as usize];
    let fields: [&[u8]; 12] = [
        b"RIFF",
        &size.saturating_add(36).to_le_bytes(),
        b"WAVEfmt ",
        &16_u32.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &channels.to_le_bytes(),
        &rate.to_le_bytes(),
        &(rate * u32::from(frame)).to_le_bytes(),
        &frame.to_le_bytes(),
        &bits.to_le_bytes(),
        b"data",
        &size.to_le_bytes(),
    ];
    out.copy_from_slice(&fields.concat());
    out
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

    fn file(samples: usize) -> Vec<u8> {
        let bytes = 2 * samples;
        let mut file = header((1, 24_000, 16), bytes as u32).to_vec();
        file.extend((0..bytes).map(|i| i as u8));
        file
    }

    #[test]
    fn a_file_is_read_to_the_last_sample_whatever_its_declared_size() {
        let whole = Wav::read(&file(12_000)).unwrap();
        assert_eq!((whole.format, whole.seconds()), ((1, 24_000, 16), 0.5));
        assert_eq!(Wav::format(&file(0)), Some(whole.format));
        for unknown in [0, u32::MAX, u32::MAX - 36, i32::MAX as u32] {
            let mut streamed = file(10);
            streamed[40..44].copy_from_slice(&unknown.to_le_bytes());
            assert_eq!(Wav::read(&streamed).unwrap(), Wav::read(&file(10)).unwrap());
        }
        // Other chunks may come before and after the samples.
        let mut more = file(10);
        more.splice(36..36, *b"LIST\x03\0\0\0abc\0");
        more.extend(b"id3 junk");
        assert_eq!(Wav::read(&more).unwrap(), Wav::read(&file(10)).unwrap());
        let mut extensible = file(10);
        extensible[20..22].copy_from_slice(&0xfffe_u16.to_le_bytes());
        extensible[16] = 40;
        extensible.splice(
            36..36,
            [[22, 0].as_slice(), &[0; 6], &[1, 0], &[0; 14]].concat(),
        );
        assert_eq!(
            Wav::read(&extensible).unwrap(),
            Wav::read(&file(10)).unwrap()
        );
    }

    #[test]
    fn truncated_audio_is_retryable_and_other_data_is_not() {
        let kind = |bytes: &[u8]| Wav::read(bytes).unwrap_err().kind();
        let good = file(10);
        for end in 12..good.len() {
            assert_eq!(kind(&good[..end]), ErrorKind::Malformed, "{end}");
        }
        assert_eq!(kind(&file(0)), ErrorKind::Malformed);
        assert_eq!(kind(b"ID3 something"), ErrorKind::Invalid);
        let mut floats = good.clone();
        floats[20] = 3;
        assert_eq!(kind(&floats), ErrorKind::Invalid);
    }
}
