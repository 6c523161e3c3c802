//! What of a request does not go out, and how people are told.

use std::fmt;

/// Something that does not go out, for people.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LeftOut {
    pub field: String,
    pub(super) why: Why,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Why {
    Own,
    Lacking,
    Value,
    /// It takes these words, and this is another.
    Words(Vec<&'static str>),
    Schema,
    AnySchema,
    /// It takes a temperature of at most the first number, and this is another.
    Hot(f64, f64),
}

impl LeftOut {
    pub(super) fn new(field: &str, why: Why) -> Self {
        Self {
            field: field.to_owned(),
            why,
        }
    }
}

/// What follows a vendor's name.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = &self.field;
        match &self.why {
            Why::Own => write!(f, "is sent no `{field}` from among the extra fields"),
            Why::Lacking => write!(f, "takes no `{field}`; it is left out"),
            Why::Value => write!(f, "takes no such `{field}`; it is left out"),
            Why::Words(words) => {
                let words = words.join(", ");
                write!(f, "takes no such `{field}`, only {words}; it is left out")
            }
            Why::Schema => write!(
                f,
                "takes no such {field} (maps with any keys, recursion, allOf or many options); it \
                 is told in the system text, and answers are checked all the same"
            ),
            Why::AnySchema => write!(
                f,
                "takes no {field}, only JSON of any shape; it is told in the system text, and answers \
                 are checked all the same"
            ),
            Why::Hot(most, found) => {
                write!(f, "takes a {field} of at most {most}; {found} is left out")
            }
        }
    }
}
