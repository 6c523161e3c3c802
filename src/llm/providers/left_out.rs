//! Parts of a request that are not sent, and the message about them.

use std::fmt;

/// A part of a request that is not sent.
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
    /// The provider accepts only these words.
    Words(Vec<String>),
    Schema,
    AnySchema,
    /// The maximum temperature that the provider accepts, and the requested one.
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

/// The message, without the name of the vendor before it.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = &self.field;
        match &self.why {
            Why::Own => write!(f, "the extra field `{field}` is not sent"),
            Why::Lacking => write!(f, "does not support `{field}`; it is omitted"),
            Why::Value => write!(f, "does not support this value of `{field}`; it is omitted"),
            Why::Words(words) => {
                let words = words.join(", ");
                write!(
                    f,
                    "does not support this value of `{field}`, only {words}; it is omitted"
                )
            }
            Why::Schema => write!(
                f,
                "does not support this {field} (maps with any keys, recursion, allOf or many options); it \
                 is added to the system text, and answers are checked anyway"
            ),
            Why::AnySchema => write!(
                f,
                "does not support {field}, only JSON of any form; it is added to the system text, and answers \
                 are checked anyway"
            ),
            Why::Hot(most, found) => {
                write!(f, "accepts a {field} of at most {most}; {found} is omitted")
            }
        }
    }
}
