use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::*;
use crate::base::ErrorKind;
use crate::llm::attachment::Part;
use crate::llm::providers::dialect::encode;
use crate::llm::providers::dialect::testing::vendor;
use crate::llm::request::{Message, Role};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";
const PDF: &[u8] = b"%PDF-1.7 rest";

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

    fn path(&self) -> &Path {
        self.0.path()
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

fn parts(request: &Request) -> Value {
    body(request).unwrap()["messages"][0]["content"].clone()
}

#[test]
fn the_memory_that_files_need_is_known_before_they_are_read() {
    let folder = Folder::new();
    let text = request([folder.file("a.txt", &[b'x'; 1000])]);
    std::fs::remove_file(folder.path().join("a.txt")).unwrap();
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
fn a_thousand_files_are_each_at_their_place() {
    let folder = Folder::new();
    let gif = |i| format!("GIF89a{i}");
    let request = request((0..1000).map(|i| folder.file(&format!("{i}.gif"), gif(i).as_bytes())));
    let parts = parts(&request);
    for (i, part) in parts.as_array().unwrap().iter().enumerate() {
        let url = part["image_url"]["url"].as_str().unwrap();
        let base64 = url.strip_prefix("data:image/gif;base64,").unwrap();
        assert_eq!(STANDARD.decode(base64).unwrap(), gif(i).as_bytes());
    }
}

#[test]
fn a_name_in_an_error_has_no_control_characters() {
    let folder = Folder::new();
    let escape = "a\u{1b}[2J.pdf";
    let part = request([folder.file(escape, PDF)]);
    std::fs::remove_file(folder.path().join(escape)).unwrap();
    let error = body(&part).unwrap_err();
    assert!(!error.message().contains(char::is_control), "{error:?}");
}

#[test]
fn a_file_that_has_changed_is_not_sent() {
    let folder = Folder::new();
    for name in ["a.png", "a.txt"] {
        let bytes = if name == "a.png" { PNG } else { b"text" };
        let request = request([folder.file(name, bytes)]);
        std::fs::write(folder.path().join(name), [bytes, b"!"].concat()).unwrap();
        let error = body(&request).unwrap_err();
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
        assert!(error.message().contains("nothing was sent"), "{error}");
    }
}

#[test]
fn one_file_may_stand_in_several_places() {
    let folder = Folder::new();
    let part = || folder.file("a.png", PNG);
    let request = request([part(), Part::text("as above"), part()]);
    let parts = parts(&request);
    assert_eq!(parts[0], parts[2]);
    assert_eq!(parts[1]["text"], "as above");
}
