use super::*;
use crate::llm::request::Request;

const STDIN: &str = "(standard input)";

fn checker(form: Form) -> StreamChecker {
    StreamChecker::new(STDIN, form, PromptSettings::default()).unwrap()
}

fn id(checker: &mut StreamChecker, line: u64, text: &str) -> Result<String, String> {
    match checker.check(line, text.as_bytes()) {
        Ok(item) => Ok(item.unwrap().item.request.id.unwrap()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn repeated_lines_are_numbered_in_order() {
    let mut checker = checker(Form::Text);
    let first = id(&mut checker, 1, "\u{feff}hi\n").unwrap();
    assert_eq!(
        first,
        crate::llm::hash::request_hash(&Request::new("hi"))[..16]
    );
    assert!(checker.check(2, b" \r\n").unwrap().is_none());
    for n in 2..200 {
        assert_eq!(
            id(&mut checker, n + 1, "hi").unwrap(),
            format!("{first}-{n}")
        );
        assert!(
            !id(&mut checker, n + 1, &format!("other {n}"))
                .unwrap()
                .contains('-')
        );
    }
}

#[test]
fn a_second_use_of_an_id_names_both_lines() {
    let mut checker = checker(Form::Jsonl);
    id(&mut checker, 1, r#"{"id":"a","prompt":"x"}"#).unwrap();
    let automatic = id(&mut checker, 3, r#"{"prompt":"x"}"#).unwrap();
    assert_eq!(
        id(&mut checker, 5, r#"{"id":"a","prompt":"y"}"#).unwrap_err(),
        "(standard input):5: found the id \"a\", which line 1 has already; \
         expected a different id for every item"
    );
    let imitation = format!(r#"{{"id":"{automatic}","prompt":"z"}}"#);
    let error = id(&mut checker, 6, &imitation).unwrap_err();
    assert!(
        error.contains(":6:") && error.contains("which line 3 has"),
        "{error}"
    );
    let next = format!(r#"{{"id":"{automatic}-2","prompt":"z"}}"#);
    id(&mut self::checker(Form::Jsonl), 7, &next).unwrap();
    let mut checker = self::checker(Form::Jsonl);
    id(&mut checker, 1, &next).unwrap();
    id(&mut checker, 2, r#"{"prompt":"x"}"#).unwrap();
    let error = id(&mut checker, 3, r#"{"prompt":"x"}"#).unwrap_err();
    assert!(
        error.contains(":3:") && error.contains("which line 1 has"),
        "{error}"
    );
}

#[test]
fn faults_name_the_line() {
    let error = id(&mut checker(Form::Jsonl), 9, "{").unwrap_err();
    assert!(
        error.starts_with("(standard input):9: found invalid JSON"),
        "{error}"
    );
    let error = StreamChecker::new(STDIN, Form::Csv, PromptSettings::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "(standard input): found a table or a list; expected JSON lines or text; save other \
         formats as a file first"
    );
}

#[test]
fn an_item_costs_less_than_64_bytes() {
    let mut checker = checker(Form::Text);
    let mut worst = 0;
    for n in 1..=40_000_u64 {
        let key = key(&n.to_string());
        checker.shard(&key).insert(key, 1);
        if n > 10_000 && n % 1000 == 0 {
            // A map of 2^k slots, at most 7 of 8 in use, has one control byte per slot.
            let slots = |map: &HashMap<Key, u32>| (map.capacity() * 8 / 7).next_power_of_two();
            let bytes: usize = checker.seen.iter().map(|map| slots(map) * 21).sum();
            worst = worst.max(bytes as u64 / n);
        }
    }
    assert_eq!(size_of::<(Key, u32)>(), 20);
    assert!(worst < 64, "{worst}");
}
