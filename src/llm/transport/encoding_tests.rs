use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::*;

const TEXT: &[u8] = br#"{"id": 1, "choices": [{"message": {"content": "hello hello hello"}}]}"#;

/// `TEXT` compressed by Google's encoder.
const BROTLI: &[u8] = &[
    27, 68, 0, 96, 156, 7, 118, 115, 198, 71, 84, 40, 228, 206, 154, 61, 24, 161, 210, 91, 100,
    111, 43, 102, 178, 144, 165, 165, 78, 87, 95, 128, 128, 67, 14, 152, 79, 16, 101, 109, 129,
    231, 82, 60, 186, 145, 17, 145, 188, 28, 163, 60, 244, 24, 37, 170, 241, 191, 37, 190, 1,
];

fn encoded(coding: &str, text: &[u8]) -> Vec<u8> {
    let level = Compression::default();
    match coding {
        "gzip" | "x-gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "raw deflate" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => {
            ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
        }
        other => panic!("{other}"),
    }
}

fn encoding(values: &[&str]) -> Option<Encoding> {
    let headers = values.iter().map(|value| ("content-encoding", *value));
    Encoding::of(&headers.collect())
}

fn decoded(values: &[&str], body: &[u8]) -> Option<Vec<u8>> {
    let (decoded, whole) = encoding(values).unwrap().decoded(body, 1 << 20);
    whole.then_some(decoded)
}

#[test]
fn each_encoding_is_read() {
    let raw = encoded("raw deflate", TEXT);
    assert_eq!(decoded(&["deflate"], &raw).unwrap(), TEXT);
    assert_eq!(decoded(&["br"], BROTLI).unwrap(), TEXT);
    for coding in ["gzip", "x-gzip", "deflate", "zstd"] {
        let body = encoded(coding, TEXT);
        assert_eq!(decoded(&[coding], &body).unwrap(), TEXT, "{coding}");
        let upper = coding.to_uppercase();
        assert_eq!(
            decoded(&[&format!("identity, {upper}")], &body).unwrap(),
            TEXT
        );
    }
    let twice = encoded("zstd", &encoded("gzip", TEXT));
    for values in [&["gzip, zstd"][..], &["gzip", "zstd"]] {
        assert_eq!(decoded(values, &twice).unwrap(), TEXT);
    }
}

#[test]
fn unknown_encodings_are_not_decoded() {
    for values in [
        &[][..],
        &["identity"],
        &[""],
        &["compress"],
        &["gzip, aes128gcm"],
        &["gzip, gzip, gzip, gzip"],
    ] {
        assert!(encoding(values).is_none(), "{values:?}");
    }
}

#[test]
fn damaged_data_is_an_error_and_an_empty_body_is_empty() {
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let whole = match coding {
            "br" => BROTLI.to_vec(),
            _ => encoded(coding, TEXT),
        };
        for end in 1..whole.len() {
            assert_eq!(decoded(&[coding], &whole[..end]), None, "{coding} {end}");
        }
        assert_eq!(decoded(&[coding], b"").unwrap(), b"");
        let reader = encoding(&[coding]).unwrap();
        let mut reader = reader.decoder(&whole[..whole.len() / 2]);
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::InvalidData,
            "{coding}: {error}"
        );
    }
}

#[test]
fn a_plain_body_is_read_whatever_its_headers_say() {
    for coding in ["gzip", "deflate", "br", "zstd"] {
        for text in [TEXT, b"{"] {
            assert_eq!(decoded(&[coding], text).unwrap(), text, "{coding}");
        }
    }
    let list = br#"{"id": 1}"#;
    assert_eq!(decoded(&["br, zstd"], list).unwrap(), list);
}

#[test]
fn bytes_after_the_last_gzip_member_are_ignored() {
    let one = encoded("gzip", TEXT);
    let both = [&one[..], &one].concat();
    for (end, text) in [(&one, TEXT.to_vec()), (&both, TEXT.repeat(2))] {
        for behind in [&b""[..], b"\n", &[0; 512], b"\x1f\n"] {
            let body = [end, behind].concat();
            assert_eq!(decoded(&["gzip"], &body).unwrap(), text, "{behind:?}");
        }
    }
    // An incomplete second member is detected at every length.
    for end in one.len() + 1..both.len() {
        assert_eq!(decoded(&["gzip"], &both[..end]), None, "{end}");
    }
}

#[test]
fn connection_errors_are_not_reported_as_damage() {
    struct Lost;
    impl Read for Lost {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::ConnectionReset, "lost"))
        }
    }
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let mut begun = match coding {
            "br" => BROTLI.to_vec(),
            _ => encoded(coding, TEXT),
        };
        begun.truncate(5);
        let reader = encoding(&[coding]).unwrap();
        let mut reader = reader.decoder(begun.as_slice().chain(Lost));
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{coding}");
    }
}
