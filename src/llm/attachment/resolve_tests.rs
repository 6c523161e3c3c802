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

fn resolved(place: &TempDir, mut request: Request, outside: bool) -> Result<Request, String> {
    let root = Root::new(&place.path().join("in"), outside);
    match resolve(&mut request.messages[0].content[0], &root) {
        Ok(()) => Ok(request),
        Err(why) => Err(why.to_string()),
    }
}

#[test]
fn a_path_is_relative_to_the_root_and_stored_as_absolute() {
    let place = folders();
    let request = resolved(&place, image("deep/../a.png"), false).unwrap();
    let file = Attached::read(&request.messages[0].content[0]).unwrap();
    assert_eq!(file.name(), "a.png");
    assert_eq!(file.media, "image/png");
    assert_eq!(file.bytes, PNG.len() as u64);
    let whole = place.path().join("in/a.png").canonicalize().unwrap();
    assert_eq!(file.path, whole.to_str().unwrap());
    // Absolute paths below the root are allowed too.
    resolved(&place, image(whole.to_str().unwrap()), false).unwrap();
}

#[test]
fn nothing_outside_of_the_root_is_read() {
    let place = folders();
    let out = place.path().join("out/secret.png");
    let mut hostile = vec![
        "../out/secret.png".to_owned(),
        "deep/../../out/secret.png".to_owned(),
        "./././../out/secret.png".to_owned(),
        out.to_str().unwrap().to_owned(),
    ];
    #[cfg(unix)]
    {
        let inside = place.path().join("in");
        std::os::unix::fs::symlink(&out, inside.join("link.png")).unwrap();
        std::os::unix::fs::symlink("../out", inside.join("folder")).unwrap();
        std::os::unix::fs::symlink("link.png", inside.join("link2.png")).unwrap();
        hostile.extend(["link.png", "link2.png", "folder/secret.png"].map(str::to_owned));
    }
    // A folder whose name has the same beginning is another folder.
    std::fs::create_dir(place.path().join("inside")).unwrap();
    std::fs::copy(&out, place.path().join("inside/c.png")).unwrap();
    hostile.push("../inside/c.png".to_owned());
    for path in hostile {
        let why = resolved(&place, image(&path), false).unwrap_err();
        assert!(why.contains("outside"), "{path}: {why}");
        resolved(&place, image(&path), true).unwrap();
    }
}

#[test]
fn unsuitable_files_are_rejected_with_the_reason() {
    let place = folders();
    let inside = place.path().join("in");
    std::fs::write(inside.join("empty.png"), b"").unwrap();
    std::fs::write(inside.join("text.md"), b"# text").unwrap();
    let file = |part: Value| with(part);
    for (request, why) in [
        (image("none.png"), "not there"),
        (image("deep"), "a folder"),
        (image("empty.png"), "empty"),
        (image("text.md"), "text/plain"),
        (image(""), "an empty path"),
        (image("a.png\0"), "cannot be read"),
        (image("a.png/b"), "the file"),
        (
            file(json!({"type": "audio", "path": "a.png"})),
            "expected audio",
        ),
        (file(json!({"type": "file", "path": 7})), "not a string"),
        (
            file(json!({"type": "file", "path": "a.png", "sha256": "00"})),
            "unknown field \"sha256\"",
        ),
    ] {
        let found = resolved(&place, request, true).unwrap_err();
        assert!(found.contains(why), "{why}: {found}");
    }
    let escape = resolved(&place, image("\u{1b}[31mred\u{7}"), false).unwrap_err();
    assert!(!escape.contains(char::is_control), "{escape:?}");
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_even_opened() {
    let place = folders();
    let pipe = place.path().join("in/pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for path in ["pipe", "/dev/zero", "/dev/stdin"] {
        let why = resolved(&place, with(json!({"type": "file", "path": path})), true).unwrap_err();
        assert!(why.contains("regular file"), "{path}: {why}");
    }
}

#[test]
fn the_fingerprint_depends_on_the_content_and_not_on_the_path() {
    let place = folders();
    let hash = |path: &str| request_hash(&resolved(&place, image(path), false).unwrap());
    let one = hash("a.png");
    assert_eq!(one, hash("deep/b.png"));
    // The type of the part does not change it either.
    let file = with(json!({"type": "file", "path": "a.png"}));
    assert_eq!(one, request_hash(&resolved(&place, file, false).unwrap()));
    let named = with(json!({"type": "image", "path": "a.png", "name": "x.png"}));
    assert_ne!(one, request_hash(&resolved(&place, named, false).unwrap()));
    // Nor does the detected media type, because later versions may detect another.
    let [sound, unknown] = ["s.mp3", "s.xyz"].map(|name| {
        std::fs::write(place.path().join("in").join(name), b"\x01\xff").unwrap();
        with(json!({"type": "file", "path": name}))
    });
    let [sound, unknown] = [sound, unknown].map(|file| resolved(&place, file, false).unwrap());
    let media = |file: &Request| file.messages[0].content[0]["media_type"].clone();
    assert_ne!(media(&sound), media(&unknown));
    assert_eq!(request_hash(&sound), request_hash(&unknown));
    std::fs::write(place.path().join("in/a.png"), b"\x89PNG\r\n\x1a\nother").unwrap();
    assert_ne!(one, hash("a.png"));
}

#[test]
fn a_resolved_request_is_stored_and_read_back() {
    let place = folders();
    let request = resolved(&place, image("a.png"), false).unwrap();
    let kept = serde_json::to_string(&request).unwrap();
    let read: Request = serde_json::from_str(&kept).unwrap();
    assert_eq!(read, request);
    assert_eq!(request_hash(&read), request_hash(&request));
}
