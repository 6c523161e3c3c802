//! Fields of an object, for the tests of all packages.

use serde_json::Value;

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
