//! What the tests of all packages share: cases in a table, and fields of an object.

use serde_json::Value;

/// The cases of a test, one in a line: `what is given => what is expected`.
pub fn cases(table: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = table.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| {
        let (given, expected) = line.split_once("=>").unwrap_or_else(|| panic!("{line}"));
        (given.trim(), expected.trim())
    })
}

/// Asserts that an object has these fields. A name that starts with `/` is a path (RFC 6901). A missing value equals `null`.
pub trait Has {
    fn has(&self, fields: Value);
}

impl Has for Value {
    #[track_caller]
    fn has(&self, fields: Value) {
        for (name, wanted) in fields.as_object().unwrap() {
            let found = if name.starts_with('/') {
                self.pointer(name).unwrap_or(&Value::Null)
            } else {
                &self[name]
            };
            assert_eq!(found, wanted, "{name} of {self}");
        }
    }
}
