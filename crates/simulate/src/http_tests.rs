use super::*;

/// Hands out its bytes in pieces of a fixed size and remembers what was written.
struct Wire<'a> {
    input: &'a [u8],
    piece: usize,
    output: Vec<u8>,
}

impl Read for Wire<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let size = self.piece.min(space.len()).min(self.input.len());
        let (now, later) = self.input.split_at(size);
        space[..size].copy_from_slice(now);
        self.input = later;
        Ok(size)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn reader<'a>(input: &'a [u8], piece: usize, key: Option<&str>) -> Reader<Wire<'a>> {
    let wire = Wire {
        input,
        piece,
        output: Vec::new(),
    };
    Reader::new(wire, key.map(str::to_owned))
}

const TWO: &[u8] =
    b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: sim\r\nContent-Length: 5\r\n\r\nhello\
    GET /health HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n";

#[test]
fn requests_arrive_whole_however_they_are_cut() {
    for piece in 1..TWO.len() {
        let mut reader = reader(TWO, piece, None);
        let first = reader.next().unwrap();
        let chat = Target::Call(Endpoint::Chat);
        assert_eq!((first.method, first.target), (Method::Post, chat));
        assert_eq!((first.body, first.close), (&b"hello"[..], false));
        let second = reader.next().unwrap();
        assert_eq!(second.method, Method::Get);
        assert_eq!(second.target, Target::Health);
        assert!(second.close && second.body.is_empty());
        assert!(matches!(reader.next(), Err(Refusal::Closed)));
    }
}

#[test]
fn a_large_body_is_read_and_its_buffer_given_back() {
    let size = 3 << 20;
    let mut input =
        format!("POST / HTTP/1.1\r\nHost: sim\r\ncontent-length: {size}\r\n\r\n").into_bytes();
    input.resize(input.len() + size, b'x');
    input.extend_from_slice(TWO);
    let mut reader = reader(&input, 70_000, None);
    assert_eq!(reader.next().unwrap().body.len(), size);
    assert_eq!(reader.next().unwrap().body, b"hello");
    assert!(reader.next().is_ok());
    assert!(reader.buffer.capacity() <= KEPT_SIZE);
}

#[test]
fn broken_heads_are_refused() {
    let post = "POST /v1/chat/completions HTTP/1.1\r\nHost: sim\r\n";
    let long = format!("X: {}", "x".repeat(HEAD_LIMIT));
    for (start, rest, refusal) in [
        ("what?\r\n", "\r\n", "BadHead"),
        (post, "\r\n", "LengthRequired"),
        (post, "Transfer-Encoding: chunked\r\n\r\n", "LengthRequired"),
        (post, "Content-Length: +1\r\n\r\n", "BadHead"),
        (post, "Content-Length: 33554433\r\n\r\n", "BodyTooLarge"),
        (post, &long, "HeadTooLarge"),
    ] {
        let head = format!("{start}{rest}");
        let found = reader(head.as_bytes(), 1_000, None).next().unwrap_err();
        assert_eq!(format!("{found:?}"), refusal);
    }
}

#[test]
fn only_the_right_bearer_is_authorized() {
    let cases = [
        ("Authorization: Bearer k1\r\n", Shown::Right),
        ("authorization: bearer k1 \r\n", Shown::Right),
        ("Authorization: Bearer k2\r\n", Shown::Wrong),
        ("Authorization: Basic k1\r\n", Shown::Wrong),
        ("", Shown::Nothing),
    ];
    for (line, wanted) in cases {
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: sim\r\n{line}\r\n");
        let mut reader = reader(head.as_bytes(), 1_000, Some("k1"));
        let request = reader.next().unwrap();
        assert_eq!(request.credentials.bearer, wanted, "{line}");
    }
}

#[test]
fn a_client_that_asks_first_is_told_to_continue() {
    let head =
        b"POST / HTTP/1.1\r\nHost: sim\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok";
    let mut reader = reader(head, head.len() - 2, None);
    assert_eq!(reader.next().unwrap().body, b"ok");
    assert_eq!(reader.stream.output, b"HTTP/1.1 100 Continue\r\n\r\n");
}

#[test]
fn paths_lead_to_endpoints() {
    let generate = Endpoint::Generate("gemini-x".to_owned());
    let embed = Endpoint::BatchEmbed("e".to_owned());
    let cases = [
        (
            "/openai/v1/chat/completions",
            Target::Call(Endpoint::Chat),
            true,
        ),
        (
            "/openai/v1/embeddings",
            Target::Call(Endpoint::Embeddings),
            true,
        ),
        ("/v1/messages", Target::Call(Endpoint::Messages), false),
        (
            "/v1beta/models/gemini-x:generateContent",
            Target::Call(generate),
            false,
        ),
        (
            "/v1beta/models/e:batchEmbedContents?alt=json",
            Target::Call(embed),
            false,
        ),
        (
            "/v1beta/models/e:sing",
            Target::Other("/v1beta/models/e:sing".to_owned()),
            false,
        ),
        ("/openai", Target::Other("/openai".to_owned()), false),
    ];
    for (path, target, groq) in cases {
        let head = format!("GET {path} HTTP/1.1\r\nHost: sim\r\n\r\n");
        let mut reader = reader(head.as_bytes(), 1_000, None);
        let request = reader.next().unwrap();
        assert_eq!((request.target, request.groq), (target, groq), "{path}");
        assert!(!request.key_in_url);
    }
}

#[test]
fn addresses_of_azure_are_told_by_the_version_behind_them() {
    let chat = Target::Call(Endpoint::Chat);
    for (path, target, versioned) in [
        (
            "/openai/deployments/d/chat/completions?api-version=1",
            chat.clone(),
            true,
        ),
        ("/openai/v1/chat/completions", chat.clone(), false),
        ("/inference/v1/chat/completions", chat.clone(), false),
        ("/v1/openai/chat/completions", chat, false),
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: sim\r\n\r\n");
        let mut reader = reader(head.as_bytes(), 1_000, None);
        let request = reader.next().unwrap();
        assert_eq!(request.target, target, "{path}");
        assert_eq!(request.versioned, versioned, "{path}");
    }
    let head =
        b"GET /openai/batches?limit=3&api-version=1 HTTP/1.1\r\nHost: sim\r\napi-key: k1\r\n\r\n";
    let mut reader = reader(head, 1_000, Some("k1"));
    let request = reader.next().unwrap();
    let Target::Batch(address) = request.target else {
        panic!("{:?}", request.target);
    };
    assert_eq!(address.path, "/v1/batches");
    assert_eq!(address.query, "limit=3");
    assert_eq!(request.credentials.api_key, Shown::Right);
}

#[test]
fn keys_and_versions_are_found_wherever_they_are() {
    let head = b"GET /v1beta/models?alt=json&key=k1 HTTP/1.1\r\nHost: sim\r\nX-Api-Key: k1\r\n\
        x-goog-api-key: k2\r\nAnthropic-Version: 2026-10-21\r\n\r\n";
    let mut reader = reader(head, 1_000, Some("k1"));
    let request = reader.next().unwrap();
    let wanted = Credentials {
        bearer: Shown::Nothing,
        x_api_key: Shown::Right,
        x_goog_api_key: Shown::Wrong,
        api_key: Shown::Nothing,
    };
    assert_eq!(request.credentials, wanted);
    assert_eq!((request.version, request.key_in_url), (Version::New, true));
}
