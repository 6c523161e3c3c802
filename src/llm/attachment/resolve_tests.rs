use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::llm::attachment::Attached;
use crate::llm::hash::request_hash;
use crate::llm::request::{Message, Request, Role};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

fn with(part: Value) -> Request {
    let mut message = Message::new(Role::User, "");
    message.content = json!([part]);
    Request::chat(vec![message])
}

fn image(path: &str) -> Request {
    with(json!({"type": "image", "path": path}))
}

/// A folder `in` with an image, next to a folder that must not be read.
fn folders() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for folder in ["in/deep", "out"] {
        std::fs::create_dir_all(place.path().join(folder)).unwrap();
    }
    for file in ["in/a.png", "in/deep/b.png", "out/secret.png"] {
        std::fs::write(place.path().join(file), PNG).unwrap();
    }
    place
}

fn resolved(place: &TempDir, mut request: Request) -> Result<Request, String> {
    let root = Root::new(&place.path().join("in"));
    resolve(&mut request.messages[0].content[0], &root)?;
    Ok(request)
}

#[test]
fn a_path_is_relative_to_the_root_and_stored_as_absolute() {
    let place = folders();
    let request = resolved(&place, image("deep/../a.png")).unwrap();
    let file = Attached::read(&request.messages[0].content[0]).unwrap();
    assert_eq!(file.name(), "a.png");
    assert_eq!(file.media, "image/png");
    assert_eq!(file.bytes, PNG.len() as u64);
    let whole = place.path().join("in/a.png").canonicalize().unwrap();
    assert_eq!(file.path, whole.to_str().unwrap());
    // Absolute paths below the root are allowed too.
    resolved(&place, image(whole.to_str().unwrap())).unwrap();
}

#[test]
fn nothing_outside_of_the_root_is_read() {
    let place = folders();
    let path = |name: &str| place.path().join(name);
    let out = path("out/secret.png");
    let mut hostile = vec![
        "../out/secret.png",
        "deep/../../out/secret.png",
        "./././../out/secret.png",
        out.to_str().unwrap(),
        // A folder whose name has the same beginning is another folder.
        "../inside/c.png",
    ];
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink(&out, path("in/link.png")).unwrap();
        symlink("../out", path("in/folder")).unwrap();
        symlink("link.png", path("in/link2.png")).unwrap();
        hostile.extend(["link.png", "link2.png", "folder/secret.png"]);
    }
    std::fs::create_dir(path("inside")).unwrap();
    std::fs::copy(&out, path("inside/c.png")).unwrap();
    for path in hostile {
        let why = resolved(&place, image(path)).unwrap_err();
        assert!(why.contains("outside"), "{path}: {why}");
    }
}

#[test]
fn unsuitable_files_are_rejected_with_the_reason() {
    let place = folders();
    let inside = place.path().join("in");
    std::fs::write(inside.join("empty.png"), b"").unwrap();
    std::fs::write(inside.join("text.md"), b"# text").unwrap();
    let cases = include_str!("refused_cases.json");
    let mut cases: Vec<(Value, String)> = serde_json::from_str(cases).unwrap();
    // Pipes and devices are not even opened.
    #[cfg(unix)]
    {
        let mut made = std::process::Command::new("mkfifo");
        assert!(made.arg(inside.join("pipe")).status().unwrap().success());
        let file = |path: &str| json!({"type": "file", "path": path});
        cases.push((file("pipe"), "regular file".to_owned()));
        for path in ["/dev/zero", "/dev/stdin"] {
            let root = Root::new(std::path::Path::new("/"));
            let why = resolve(&mut file(path), &root).unwrap_err();
            assert!(why.contains("regular file"), "{why}");
        }
    }
    for (part, why) in cases {
        let found = resolved(&place, with(part)).unwrap_err();
        assert!(found.contains(&why), "{why}: {found}");
        assert!(!found.contains(char::is_control), "{found:?}");
    }
}

#[test]
fn the_fingerprint_depends_on_the_content_and_not_on_the_path() {
    let place = folders();
    let hash = |path: &str| request_hash(&resolved(&place, image(path)).unwrap());
    let one = hash("a.png");
    assert_eq!(one, hash("deep/b.png"));
    // The type of the part does not change it either.
    let file = with(json!({"type": "file", "path": "a.png"}));
    assert_eq!(one, request_hash(&resolved(&place, file).unwrap()));
    let named = with(json!({"type": "image", "path": "a.png", "name": "x.png"}));
    assert_ne!(one, request_hash(&resolved(&place, named).unwrap()));
    // Nor does the detected media type, because later versions may detect another.
    let [sound, unknown] = ["s.mp3", "s.xyz"].map(|name| {
        std::fs::write(place.path().join("in").join(name), b"\x01\xff").unwrap();
        with(json!({"type": "file", "path": name}))
    });
    let [sound, unknown] = [sound, unknown].map(|file| resolved(&place, file).unwrap());
    let media = |file: &Request| file.messages[0].content[0]["media_type"].clone();
    assert_ne!(media(&sound), media(&unknown));
    assert_eq!(request_hash(&sound), request_hash(&unknown));
    std::fs::write(place.path().join("in/a.png"), b"\x89PNG\r\n\x1a\nother").unwrap();
    assert_ne!(one, hash("a.png"));
}

#[test]
fn a_resolved_request_is_stored_and_read_back() {
    let place = folders();
    let request = resolved(&place, image("a.png")).unwrap();
    let kept = serde_json::to_string(&request).unwrap();
    let read: Request = serde_json::from_str(&kept).unwrap();
    assert_eq!(read, request);
    assert_eq!(request_hash(&read), request_hash(&request));
}
