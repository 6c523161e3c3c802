//! The columns of a table, each with a name of its own.

use std::collections::{HashMap, HashSet};

/// The columns of a table.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    /// The names in the header, without blanks around them.
    pub(super) given: Vec<String>,
    /// The names that templates, results and messages use: of columns of one name, the second is called `name_2`, and one
    /// without a name `column 3`. Where the header has such a name itself, the next number is taken.
    pub(super) names: Vec<String>,
    /// The letters that a worksheet has for columns without a name, with their places.
    pub(super) letters: Vec<(String, usize)>,
    /// The line with their names.
    pub(super) line: u64,
    /// The one that is the prompt if there is no template.
    pub(super) prompt: &'static str,
}

impl Columns {
    pub(crate) fn new(names: Vec<String>, line: u64) -> Self {
        let given: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
        let mut taken: HashSet<String> = given.iter().cloned().collect();
        // How often each name has occurred, so that many columns of one name are not tried from 2 on.
        let mut seen: HashMap<String, u32> = HashMap::new();
        let mut unique = |(at, name): (usize, &String)| {
            let mut unnamed = 0;
            let (base, count) = if name.is_empty() {
                (format!("column {}", at + 1), &mut unnamed)
            } else {
                (name.clone(), seen.entry(name.clone()).or_default())
            };
            if *count == 0 && !name.is_empty() {
                *count = 1;
                return base;
            }
            loop {
                *count += 1;
                let made = match *count {
                    1 => base.clone(),
                    n => format!("{base}_{n}"),
                };
                if taken.insert(made.clone()) {
                    return made;
                }
            }
        };
        let names = given.iter().enumerate().map(&mut unique).collect();
        let unnamed = (0..given.len()).filter(|at| given[*at].is_empty());
        Self {
            names,
            letters: unnamed.map(|at| (letters(at), at)).collect(),
            given,
            line,
            prompt: "prompt",
        }
    }

    /// The same with another column as the prompt if there is no template.
    pub(crate) fn prompt(self, prompt: &'static str) -> Self {
        Self { prompt, ..self }
    }

    /// The column with that name, or with these letters.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let named = self.names.iter().position(|other| other == name);
        let lettered = || self.letters.iter().find(|(other, _)| other == name);
        named.or_else(|| lettered().map(|(_, at)| *at))
    }
}

/// The letters of a column in a worksheet: A to Z, AA and so on.
fn letters(at: usize) -> String {
    let last = char::from(b'A' + (at % 26) as u8);
    match at / 26 {
        0 => last.to_string(),
        before => letters(before - 1) + &last.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_has_a_name_of_its_own() {
        let named = |names: &str| Columns::new(names.split(',').map(str::to_owned).collect(), 1);
        for (header, names) in [
            ("a, b ", "a,b"),
            (",a,", "column 1,a,column 3"),
            ("a,a,a,b,b", "a,a_2,a_3,b,b_2"),
            ("a,a,a_2,a", "a,a_3,a_2,a_4"),
            ("column 2,,x", "column 2,column 2_2,x"),
            ("a_2,a_2,a,a", "a_2,a_2_2,a,a_3"),
            (",column 1,column 1", "column 1_2,column 1,column 1_3"),
        ] {
            assert_eq!(named(header).names.join(","), names, "{header}");
        }
        let wide = named(&",".repeat(28));
        assert_eq!(
            [wide.find("C"), wide.find("AB"), wide.find("column 3")],
            [Some(2), Some(27), Some(2)]
        );
        assert_eq!(named("a,b").find("B"), None);
        let equal = named(&"x,".repeat(50_000));
        assert_eq!(equal.names[49_999], "x_50000");
    }
}
