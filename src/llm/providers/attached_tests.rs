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
const MP3: &[u8] = b"ID3\x03 rest";
const MOV: &[u8] = b"\0\0\0\x14ftypqt  rest";

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
fn body(name: &str, request: &Request) -> Result<Value, Error> {
    let vendor = vendor(name);
    let call = encode(vendor, &filled(vendor, request)?, Some("m"))?;
    Ok(serde_json::from_slice(&call.body).unwrap())
}

fn parts(name: &str, request: &Request) -> Value {
    let body = body(name, request).unwrap();
    let contents = match name {
        "gemini" => &body["contents"][0]["parts"],
        _ => &body["messages"][0]["content"],
    };
    contents.clone()
}

#[test]
fn every_vendor_gets_files_as_its_documentation_shows() {
    let folder = Folder::new();
    let png = STANDARD.encode(PNG);
    let (pdf, mp3) = (STANDARD.encode(PDF), STANDARD.encode(MP3));
    let png_url = format!("data:image/png;base64,{png}");
    let pdf_url = format!("data:application/pdf;base64,{pdf}");
    let look = json!({"type": "text", "text": "look"});
    let both = || {
        let (png, pdf) = (folder.file("a.png", PNG), folder.file("b.pdf", PDF));
        request([Part::text("look"), png, pdf])
    };
    let audio = || request([folder.file("c.mp3", MP3)]);

    let image_url = json!({"type": "image_url", "image_url": {"url": png_url}});
    let file = json!({"type": "file", "file": {"filename": "b.pdf", "file_data": pdf_url}});
    for name in ["openai", "local", "custom"] {
        assert_eq!(
            parts(name, &both()),
            json!([look, image_url, file]),
            "{name}"
        );
        let sound = json!({"type": "input_audio", "input_audio": {"data": mp3, "format": "mp3"}});
        assert_eq!(parts(name, &audio()), json!([sound]), "{name}");
    }
    let document =
        json!({"type": "document_url", "document_url": pdf_url, "document_name": "b.pdf"});
    assert_eq!(
        parts("mistral", &both()),
        json!([look, image_url, document])
    );
    let sound = json!({"type": "input_audio", "input_audio": mp3});
    assert_eq!(parts("mistral", &audio()), json!([sound]));
    assert_eq!(
        parts("anthropic", &both()),
        json!([
            look,
            {"type": "image",
             "source": {"type": "base64", "media_type": "image/png", "data": png}},
            {"type": "document", "title": "b.pdf",
             "source": {"type": "base64", "media_type": "application/pdf", "data": pdf}},
        ])
    );
    assert_eq!(
        parts("gemini", &both()),
        json!([
            {"text": "look"},
            {"inlineData": {"mimeType": "image/png", "data": png}},
            {"inlineData": {"mimeType": "application/pdf", "data": pdf}},
        ])
    );
    let sound = json!({"inlineData": {"mimeType": "audio/mp3", "data": mp3}});
    assert_eq!(parts("gemini", &audio()), json!([sound]));
    let film = request([folder.file("d.mov", MOV)]);
    assert_eq!(
        parts("gemini", &film)[0]["inlineData"]["mimeType"],
        "video/mov"
    );
    for name in ["xai", "groq", "azure"] {
        let picture = request([folder.file("a.png", PNG)]);
        assert_eq!(parts(name, &picture), json!([image_url]), "{name}");
    }
}

#[test]
fn text_files_are_sent_as_text() {
    let folder = Folder::new();
    let text = "\u{feff}Ä \"quoted\" text\n";
    let request = request([folder.file("notes.md", text.as_bytes())]);
    let plain = json!([{"type": "text", "text": &text[3..]}]);
    for name in ["openai", "xai", "groq", "mistral", "local"] {
        assert_eq!(parts(name, &request), plain, "{name}");
    }
    let source = json!({"type": "text", "media_type": "text/plain", "data": &text[3..]});
    let document = json!([{"type": "document", "source": source, "title": "notes.md"}]);
    assert_eq!(parts("anthropic", &request), document);
    let inline = json!({"inlineData": {"mimeType": "text/plain", "data": STANDARD.encode(text)}});
    assert_eq!(parts("gemini", &request), json!([inline]));
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
    let parts = parts("openai", &request);
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
    let error = body("openai", &part).unwrap_err();
    assert!(!error.message().contains(char::is_control), "{error:?}");
}

#[test]
fn a_file_that_has_changed_is_not_sent() {
    let folder = Folder::new();
    for name in ["a.png", "a.txt"] {
        let bytes = if name == "a.png" { PNG } else { b"text" };
        let request = request([folder.file(name, bytes)]);
        std::fs::write(folder.path().join(name), [bytes, b"!"].concat()).unwrap();
        let error = body("openai", &request).unwrap_err();
        assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
        assert!(error.message().contains("nothing was sent"), "{error}");
    }
}

#[test]
fn one_file_may_stand_in_several_places() {
    let folder = Folder::new();
    let part = || folder.file("a.png", PNG);
    let request = request([part(), Part::text("as above"), part()]);
    let parts = parts("openai", &request);
    assert_eq!(parts[0], parts[2]);
    assert_eq!(parts[1]["text"], "as above");
}
