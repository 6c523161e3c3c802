//! Warnings about lasting problems, logged once instead of at each check.

#[derive(Default)]
pub(crate) struct WarnOnce(Option<String>);

impl WarnOnce {
    /// Logs a text unless it was the last one.
    pub fn warn(&mut self, text: String) {
        if self.is_new(&text) {
            log::warn!("{text}");
            self.0 = Some(text);
        }
    }

    /// Records that the problem is over: the same text will be logged again.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    fn is_new(&self, text: &str) -> bool {
        self.0.as_deref() != Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_new_until_it_is_logged_and_once_it_was_over() {
        let mut once = WarnOnce::default();
        assert!(once.is_new("full"));
        once.warn("full".to_owned());
        assert!(!once.is_new("full") && once.is_new("locked"));
        once.clear();
        assert!(once.is_new("full"));
    }
}
