//! The folder for audio: the parts of a podcast while it is made, each written to disk before its job is completed,
//! and the finished file; as WAV, read from what a speech endpoint sends.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use batchwright::unstable::{AtomicFile, disk_space, make_private_folder};
use batchwright::{Error, ErrorKind, JobId};

/// No audio is requested if less than this number of bytes is free on the disk.
const LEAST_ROOM: u64 = 128 << 20;

/// The folder.
#[derive(Debug, Clone)]
pub(crate) struct AudioFolder(PathBuf);

impl AudioFolder {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self(std::path::absolute(&folder).unwrap_or(folder))
    }

    /// Where the parts of a podcast are until it is finished.
    fn parts(&self, job: JobId) -> PathBuf {
        self.0.join(format!(".{job}.parts"))
    }

    pub(crate) fn part(&self, job: JobId, name: &str) -> PathBuf {
        self.parts(job).join(format!("{name}.wav"))
    }

    /// The file of a podcast with this name.
    pub(crate) fn target(&self, job: JobId, name: &str) -> PathBuf {
        let is_odd = |c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c);
        let name: String = name.chars().take(60).collect();
        let name = name.replace(is_odd, "-");
        let name = name.trim_start_matches('.');
        self.0.join(format!("{name}-{job}.wav"))
    }

    /// Creates the folder for the parts, if the disk has enough space for them.
    ///
    /// # Errors
    /// A failure that affects all podcasts: their jobs wait until the folder can be written.
    pub(crate) fn prepare(&self, job: JobId) -> Result<(), Error> {
        let folder = self.parts(job);
        make_private_folder(&folder)
            .map_err(|error| unwritten(ErrorKind::Transient, &folder, &error).with_unreachable())?;
        match disk_space(&folder) {
            Some((free, _)) if free < LEAST_ROOM => {
                let why = "the disk of the audio folder is nearly full; no audio is requested that could not be saved";
                let error = Error::new(ErrorKind::Transient, why);
                Err(error.with_critical().with_unreachable())
            }
            _ => Ok(()),
        }
    }

    /// Stores a part; it is on the disk when this returns.
    ///
    /// # Errors
    /// A permanent failure: the audio was billed, and a retry would be billed again.
    pub(crate) fn keep_part(&self, job: JobId, name: &str, wav: &[u8]) -> Result<(), Error> {
        let path = self.part(job, name);
        write(&path, |file| file.write_all(wav))
            .map_err(|error| unwritten(ErrorKind::Invalid, &path, &error))
    }

    /// Joins parts to the file, which appears only when it is complete.
    pub(crate) fn join(&self, target: &Path, parts: &[PathBuf]) -> Result<(), Error> {
        let (mut format, mut total) = (None, 0);
        for part in parts {
            let (this, size) = described(part)?;
            let before = *format.get_or_insert(this);
            if before != this {
                let why = "sounds of two formats cannot be joined";
                return Err(Error::new(ErrorKind::Invalid, why));
            }
            total += size;
        }
        let (Some(format), Ok(end)) = (format, u32::try_from(total + 36)) else {
            let why = "the audio is empty, or exceeds the limit of a WAV file";
            return Err(Error::new(ErrorKind::Invalid, why));
        };
        write(target, |file| {
            file.write_all(&header(format, end - 36))?;
            for part in parts {
                let mut part = File::open(part)?;
                part.seek(SeekFrom::Start(HEADER_BYTES))?;
                io::copy(&mut part, file)?;
            }
            Ok(())
        })
        .map_err(|error| unwritten(ErrorKind::Transient, target, &error))
    }

    /// The name of a finished file in the folder, its seconds and its bytes.
    pub(crate) fn finished(&self, target: &Path) -> Result<(String, f64, u64), Error> {
        let ([.., a, b, c, d, _, _, _, _], bytes) = described(target)?;
        let milliseconds = 1000.0 * bytes as f64 / f64::from(u32::from_le_bytes([a, b, c, d]));
        let seconds = milliseconds.round() / 1000.0;
        Ok((name(target), seconds, bytes + HEADER_BYTES))
    }

    /// Deletes the parts.
    pub(crate) fn forget(&self, job: JobId) {
        let folder = self.parts(job);
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("{}: cannot be deleted: {error}", folder.display());
        }
    }
}

/// The format of a file that was written here, and the number of bytes of its audio.
fn described(path: &Path) -> Result<(Format, u64), Error> {
    let read = || {
        let mut head = [0; HEADER_BYTES as usize];
        let mut file = File::open(path)?;
        file.read_exact(&mut head)?;
        let size = file.metadata()?.len() - HEADER_BYTES;
        let format = pcm(&head[20..]).ok_or_else(|| io::Error::other("it is no WAV file"))?;
        Ok((format, size))
    };
    read().map_err(|error: io::Error| {
        let why = format!("{}: cannot be read: {error}", name(path));
        Error::new(ErrorKind::Transient, why)
    })
}

fn write(path: &Path, fill: impl FnOnce(&mut &File) -> io::Result<()>) -> io::Result<()> {
    let made = AtomicFile::create(path, File::options().write(true))?;
    fill(&mut made.file())?;
    made.replace().map(drop)
}

fn unwritten(kind: ErrorKind, path: &Path, error: &io::Error) -> Error {
    // Clients receive results and errors, and must not learn the path of the folder.
    log::warn!("{}: cannot be written: {error}", path.display());
    let why = format!("{}: cannot be written: {error}", name(path));
    Error::new(kind, why).with_critical()
}

/// The name of a file within its folder.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Number of bytes before the samples in files that are written here.
const HEADER_BYTES: u64 = 44;
/// Servers that stream audio while they generate it write this size, or a larger one, because the real size is
/// unknown.
const UNKNOWN: usize = 0x7fff_0000;

/// Reads a WAV file, and returns one that has only its format and its samples. If their size is unknown, they extend to
/// the end.
///
/// # Errors
/// [`ErrorKind::Malformed`] if the audio is truncated or missing, which a retry may fix; [`ErrorKind::Invalid`] if it has
/// another format.
pub(crate) fn plain_wav(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let error = |kind, why: &str| Error::new(kind, format!("the sound {why}"));
    let invalid = |why| error(ErrorKind::Invalid, why);
    let malformed = |why| error(ErrorKind::Malformed, why);
    let riff = bytes.strip_prefix(b"RIFF").and_then(|riff| riff.get(4..));
    let chunks = riff.and_then(|riff| riff.strip_prefix(b"WAVE"));
    let mut chunks = chunks.ok_or_else(|| invalid("is no WAV file"))?;
    let mut format = None;
    while let Some((&[n, a, m, e, size @ ..], body)) = chunks.split_first_chunk::<8>() {
        let size = u32::from_le_bytes(size) as usize;
        match &[n, a, m, e] {
            b"fmt " => format = pcm(body),
            b"data" => {
                let format = format.ok_or_else(|| invalid("is no PCM"))?;
                let has_size = (1..UNKNOWN).contains(&size);
                let size = if has_size { size } else { body.len() };
                let samples = body.get(..size).ok_or_else(|| malformed("is cut off"))?;
                let frame = usize::from(u16::from_le_bytes([format[12], format[13]]));
                let samples = &samples[..size - size % frame];
                if samples.is_empty() {
                    return Err(malformed("has no length"));
                }
                let size = u32::try_from(samples.len()).unwrap_or(u32::MAX);
                return Ok([&header(format, size), samples].concat());
            }
            _ => {}
        }
        let next = size.saturating_add(size % 2);
        chunks = body.get(next..).unwrap_or_default();
    }
    Err(malformed("is cut off"))
}

/// The description of plain PCM in a WAV file: kind, channels, samples a second, bytes a second, bytes of a sample of all
/// channels, bits. Only audio with the same one can be joined.
type Format = [u8; 16];

/// The format in a `fmt ` chunk, if it is plain PCM.
fn pcm(chunk: &[u8]) -> Option<Format> {
    const PCM: &[u8] = &[1, 0];
    /// A longer description follows, which begins with the real format.
    const EXTENSIBLE: &[u8] = &[0xfe, 0xff];
    let mut format: Format = *chunk.first_chunk()?;
    if format.starts_with(EXTENSIBLE) {
        format[..2].copy_from_slice(chunk.get(24..26)?);
    }
    let [_, _, channels, 0, a, b, c, d, ..] = format else {
        return None;
    };
    let (rate, bits) = (u32::from_le_bytes([a, b, c, d]), format[14]);
    let is_usual = (1..=64).contains(&channels) && (1..=768_000).contains(&rate);
    let is_whole = [8, 16, 24, 32].contains(&bits) && format[15] == 0;
    // Not every server writes the numbers of bytes rightly.
    let frame = u16::from(channels) * u16::from(bits / 8);
    let second = rate.wrapping_mul(frame.into());
    format[8..12].copy_from_slice(&second.to_le_bytes());
    format[12..14].copy_from_slice(&frame.to_le_bytes());
    (format.starts_with(PCM) && is_usual && is_whole).then_some(format)
}

/// The header for this number of bytes of samples.
fn header(format: Format, size: u32) -> Vec<u8> {
    let all = size.saturating_add(36).to_le_bytes();
    let (head, length, size) = (b"WAVEfmt ", 16_u32.to_le_bytes(), size.to_le_bytes());
    [b"RIFF", &all[..], head, &length, &format, b"data", &size].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One channel, 24,000 samples of 16 bits a second.
    const MONO: Format = [1, 0, 1, 0, 0xc0, 0x5d, 0, 0, 0x80, 0xbb, 0, 0, 2, 0, 16, 0];

    #[test]
    fn an_unusable_audio_folder_affects_all_jobs_and_makes_no_call() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let audio = AudioFolder::new(file.join("audio"));
        let error = audio.prepare(JobId::from_bytes([7; 16])).unwrap_err();
        assert!(error.is_critical() && error.kind() == ErrorKind::Transient);
        assert!(error.message().contains("cannot be written"), "{error}");
        let place = folder.path().to_str().unwrap();
        assert!(!error.message().contains(place), "{error}");
    }

    #[test]
    fn parts_are_kept_and_joined_to_the_sample() {
        let folder = tempfile::tempdir().unwrap();
        let audio = AudioFolder::new(folder.path().join("new"));
        let job = JobId::from_bytes([7; 16]);
        audio.prepare(job).unwrap();
        let samples = |level: u8, n: usize| vec![level; 2 * n];
        let sound = |level: u8, n: usize| [header(MONO, 2 * n as u32), samples(level, n)].concat();
        audio.keep_part(job, "a", &sound(1, 12_000)).unwrap();
        audio.keep_part(job, "b", &sound(2, 24_000)).unwrap();
        let target = audio.target(job, "../rain in Bern");
        assert!(target.ends_with(format!("-rain-in-Bern-{job}.wav")));
        let parts = ["a", "b", "a"].map(|name| audio.part(job, name));
        audio.join(&target, &parts).unwrap();
        let (_, seconds, bytes) = audio.finished(&target).unwrap();
        assert_eq!((seconds, bytes), (2.0, 96_044));
        let samples = [samples(1, 12_000), samples(2, 24_000), samples(1, 12_000)].concat();
        let whole = [header(MONO, 96_000), samples].concat();
        assert_eq!(fs::read(&target).unwrap(), whole);

        let mut other = sound(3, 2);
        other[22] = 2;
        audio.keep_part(job, "c", &other).unwrap();
        let parts = ["a", "c"].map(|name| audio.part(job, name));
        let error = audio.join(&target, &parts).unwrap_err();
        assert!(error.message().contains("two formats"), "{error}");
        assert_eq!(audio.finished(&target).unwrap().2, 96_044);

        audio.forget(job);
        audio.forget(job);
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
    }

    fn file(samples: usize) -> Vec<u8> {
        let bytes = 2 * samples;
        let mut file = header(MONO, bytes as u32);
        file.extend((0..bytes).map(|i| i as u8));
        file
    }

    #[test]
    fn a_file_is_read_to_the_last_sample_whatever_its_declared_size() {
        assert_eq!(plain_wav(&file(12_000)).unwrap(), file(12_000));
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
        // Bytes a second and a sample follow from the other values.
        let mut wrong = file(10);
        wrong[28..34].fill(0);
        let unknown = [0, u32::MAX, u32::MAX - 36, i32::MAX as u32].map(streamed);
        for other in unknown.iter().chain([&more, &extensible, &wrong]) {
            assert_eq!(plain_wav(other).unwrap(), file(10));
        }
    }

    #[test]
    fn truncated_audio_is_retryable_and_other_data_is_not() {
        let kind = |bytes: &[u8]| plain_wav(bytes).unwrap_err().kind();
        let good = file(10);
        for end in 12..good.len() {
            assert_eq!(kind(&good[..end]), ErrorKind::Malformed, "{end}");
        }
        assert_eq!(kind(&file(0)), ErrorKind::Malformed);
        assert_eq!(kind(b"ID3 something"), ErrorKind::Invalid);
        // Kind, channels, rate and bits.
        for (place, value) in [
            (20..21, 3),
            (22..23, 0),
            (22..23, 65),
            (24..28, 0),
            (34..35, 0),
            (34..35, 12),
        ] {
            let mut other = good.clone();
            other[place.clone()].fill(value);
            assert_eq!(kind(&other), ErrorKind::Invalid, "{place:?}");
        }
    }
}
