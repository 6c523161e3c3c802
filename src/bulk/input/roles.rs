//! What columns are for, if the caller names them.

use super::PromptSettings;
use super::messages::MESSAGES;

/// What a column of a table, or a field of a line, is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColumnRole {
    /// The id of the item, which then every row must have. Default: `id` or `custom_id`, which may be missing or empty.
    Id,
    /// The model. Where it is empty, that of the settings applies.
    Model,
    /// The system text; the same.
    System,
    /// The conversation: a list of messages with `role` and `content`, or with `from` and `value`, as JSON or its text. The
    /// name may end with `[:-1]`: then a last message of the assistant is left out. Default: `messages`.
    Messages,
}

/// The named columns.
#[derive(Clone, Default)]
pub(crate) struct Roles {
    pub(super) id: Option<String>,
    pub(super) model: Option<String>,
    pub(super) system: Option<String>,
    pub(super) messages: Option<String>,
    /// Whether a last message of the assistant is left out.
    pub(super) without_answer: bool,
}

/// The end of a name of messages whose last one is left out, as in Python.
const WITHOUT_LAST: &str = "[:-1]";

impl Roles {
    fn all(&self) -> impl Iterator<Item = &String> {
        let all = [&self.id, &self.model, &self.system, &self.messages];
        all.into_iter().flatten()
    }

    /// Whether any column is named.
    pub(super) fn are_named(&self) -> bool {
        self.all().next().is_some()
    }

    /// Whether a column has a role.
    pub(super) fn names(&self, name: &str) -> bool {
        self.all().any(|named| named == name)
    }

    /// The columns that only some rows have.
    pub(super) fn optional(&self) -> impl Iterator<Item = &String> {
        [&self.model, &self.system].into_iter().flatten()
    }
}

impl PromptSettings {
    /// Names the column of a role. With a template, or a column with messages of another name than `messages`, all other
    /// fields are data: model and system text of a row then come from these settings, unless their columns are named.
    /// Default: no column, see [`ColumnRole`].
    pub fn column(mut self, role: ColumnRole, name: impl Into<String>) -> Self {
        let (name, roles) = (name.into(), &mut self.roles);
        match role {
            ColumnRole::Id => roles.id = Some(name),
            ColumnRole::Model => roles.model = Some(name),
            ColumnRole::System => roles.system = Some(name),
            ColumnRole::Messages => {
                let cut = name.strip_suffix(WITHOUT_LAST);
                roles.without_answer = cut.is_some();
                roles.messages = Some(cut.unwrap_or(&name).to_owned());
            }
        }
        self
    }

    /// Whether all fields of a row are data that only the template, or a named column, uses.
    pub(super) fn is_data(&self) -> bool {
        let named = self.roles.messages.as_deref();
        self.template.is_some() || named.is_some_and(|name| name != MESSAGES)
    }
}
