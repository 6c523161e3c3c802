use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::*;
use crate::base::ErrorKind;
use crate::llm::attachment::Part;
use crate::llm::providers::dialect::encode;
use crate::llm::providers::dialect::testing::vendor;
use crate::llm::request::{Message, Role};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Part {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Part::file(path).unwrap()
    }
}

fn request(parts: impl IntoIterator<Item = Part>) -> Request {
    Request::chat(vec![Message::of_parts(Role::User, parts)])
}

/// The body of a call to model `m`.
fn body(request: &Request) -> Result<Value, Error> {
    let vendor = vendor("openai");
    let call = encode(vendor, &filled(vendor, request)?, Some("m"))?;
    Ok(serde_json::from_slice(&call.body).unwrap())
}

#[test]
fn the_memory_that_files_need_is_known_before_they_are_read() {
    let folder = Folder::new();
    let text = request([folder.file("a.txt", &[b'x'; 1000])]);
    std::fs::remove_file(folder.0.path().join("a.txt")).unwrap();
    assert_eq!(memory(&text).unwrap(), Some(3000));
    assert_eq!(memory(&Request::new("U")).unwrap(), None);
    let error = filled(vendor("openai"), &text).unwrap_err();
    assert!(error.message().contains("cannot be read"), "{error}");
    let mut many = text;
    let part = many.messages[0].content[0].clone();
    many.messages[0].content = vec![part; 200_000].into();
    let error = memory(&many).unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
    assert!(error.message().contains("bytes together"), "{error}");
}

#[test]
fn files_are_each_at_their_place_also_one_in_several() {
    let folder = Folder::new();
    let gif = |i: usize| format!("GIF89a{}", i % 7);
    let part = |i| match i {
        3 => Part::text("as above"),
        _ => folder.file(&format!("{}.gif", i % 7), gif(i).as_bytes()),
    };
    let request = request((0..20).map(part));
    let body = body(&request).unwrap();
    let parts = body["messages"][0]["content"].as_array().unwrap();
    for (i, part) in parts.iter().enumerate().filter(|(i, _)| *i != 3) {
        let url = part["image_url"]["url"].as_str().unwrap();
        let base64 = url.strip_prefix("data:image/gif;base64,").unwrap();
        assert_eq!(STANDARD.decode(base64).unwrap(), gif(i).as_bytes());
    }
    assert_eq!(parts[3]["text"], "as above");
}

#[test]
fn a_file_that_has_changed_is_not_sent() {
    let folder = Folder::new();
    for (name, bytes) in [
        ("a.png", &b"\x89PNG\r\n\x1a\nrest"[..]),
        ("a\u{1b}[2J.txt", b"text"),
    ] {
        let request = request([folder.file(name, bytes)]);
        std::fs::write(folder.0.path().join(name), [bytes, b"!"].concat()).unwrap();
        let changed = body(&request).unwrap_err();
        std::fs::remove_file(folder.0.path().join(name)).unwrap();
        for error in [changed, body(&request).unwrap_err()] {
            assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
            assert!(error.message().contains("nothing was sent"), "{error}");
            assert!(!error.message().contains(char::is_control), "{error:?}");
        }
    }
}
