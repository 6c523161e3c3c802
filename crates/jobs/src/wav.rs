//! Audio as WAV files: reads what a speech endpoint sends, and writes headers.

use batchwright::{Error, ErrorKind};

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
const UNKNOWN: usize = 0x7fff_0000;

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
            let size = size as usize;
            if has(bytes, at, b"fmt ") && left >= 16 {
                format = Some(format_at(bytes, body).ok_or_else(|| invalid("is no PCM"))?);
            } else if has(bytes, at, b"data") {
                let format = format.ok_or_else(|| invalid("has no format"))?;
                let size = match size {
                    size if size == 0 || size >= UNKNOWN => left,
                    size if size <= left => size,
                    _ => return Err(malformed("is cut off")),
                };
                let frame = usize::from(format.0) * usize::from(format.2 / 8);
                let samples = bytes[body..body + size - size % frame].to_vec();
                return if samples.is_empty() {
                    Err(malformed("has no length"))
                } else {
                    Ok(Self { format, samples })
                };
            }
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
        seconds(self.format, self.samples.len() as u64)
    }
}

/// The duration of this number of bytes of samples.
pub(crate) fn seconds((channels, rate, bits): Format, bytes: u64) -> f64 {
    bytes as f64 / (f64::from(rate) * f64::from(channels) * f64::from(bits / 8))
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
        let streamed = |unknown: u32| {
            let mut streamed = file(10);
            streamed[40..44].copy_from_slice(&unknown.to_le_bytes());
            streamed
        };
        // Other chunks may come before and after the samples.
        let mut more = file(10);
        more.splice(36..36, *b"LIST\x03\0\0\0abc\0");
        more.extend(b"id3 junk");
        let mut extensible = file(10);
        extensible[20..22].copy_from_slice(&0xfffe_u16.to_le_bytes());
        extensible[16] = 40;
        let extension = [&[22, 0][..], &[0; 6], &[1, 0], &[0; 14]].concat();
        extensible.splice(36..36, extension);
        let unknown = [0, u32::MAX, u32::MAX - 36, i32::MAX as u32].map(streamed);
        for other in unknown.iter().chain([&more, &extensible]) {
            assert_eq!(Wav::read(other).unwrap(), Wav::read(&file(10)).unwrap());
        }
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
