//! The input of a run's watchdog: first its orders, in an environment variable, then news of commands on its
//! standard input.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::policy::{Fields, Reading};

/// The orders of the watchdog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    pub run: String,
    /// The process whose commands it watches.
    pub batchwright: i32,
    /// The folder of the run, which is removed at the end.
    pub folder: PathBuf,
    pub memory: Option<u64>,
    pub processes: Option<u64>,
    /// All children of batchwright except the watchdog are commands, or were left behind by commands.
    pub owns_children: bool,
    /// The cgroup that contains those of the commands.
    pub cgroups: Option<PathBuf>,
}

/// News of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The command with this number is about to start.
    Starting(u64),
    /// The first process of the command.
    Started(u64, u32),
    /// It could not be started.
    NotStarted(u64),
    /// Batchwright begins to start processes that are not announced here.
    NotAlone,
}

impl News {
    /// A line of text.
    pub fn line(self) -> Vec<u8> {
        match self {
            Self::Starting(number) => format!("{number} starting\n"),
            Self::Started(number, pid) => format!("{number} {pid}\n"),
            Self::NotStarted(number) => format!("{number} not\n"),
            Self::NotAlone => "not alone\n".to_owned(),
        }
        .into_bytes()
    }

    pub fn read(line: &str) -> Option<Self> {
        let (number, what) = line.split_once(' ')?;
        let number = number.parse();
        Some(match what {
            "alone" => Self::NotAlone,
            "starting" => Self::Starting(number.ok()?),
            "not" => Self::NotStarted(number.ok()?),
            pid => Self::Started(number.ok()?, pid.parse().ok()?),
        })
    }
}

impl Orders {
    pub fn encode(&self) -> OsString {
        let mut fields = Fields::of_this_version();
        fields.put(&self.run);
        fields.put(self.batchwright.to_string());
        fields.put(&self.folder);
        fields.put_limit(self.memory);
        fields.put_limit(self.processes);
        fields.put_flag(self.owns_children);
        fields.put_optional_path(self.cgroups.as_deref());
        OsString::from_vec(fields.0)
    }

    /// `None` if another version has encoded the orders.
    pub fn decode(text: &OsStr) -> Option<Self> {
        let mut fields = Reading::of_this_version(text)?;
        Some(Self {
            run: fields.text()?.to_owned(),
            batchwright: fields.text()?.parse().ok()?,
            folder: fields.path()?,
            memory: fields.limit()?,
            processes: fields.limit()?,
            owns_children: fields.flag()?,
            cgroups: fields.optional_path()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_understands_its_orders() {
        let orders = Orders {
            run: "r".to_owned(),
            batchwright: 7,
            folder: "/tmp/a\nb".into(),
            memory: None,
            processes: Some(512),
            owns_children: true,
            cgroups: None,
        };
        let contained = Orders {
            cgroups: Some("/c\nd".into()),
            owns_children: false,
            ..orders.clone()
        };
        for orders in [orders, contained] {
            assert_eq!(Orders::decode(&orders.encode()), Some(orders));
        }
        assert_eq!(Orders::decode("1:21:r".as_ref()), None);
        for news in [
            News::Starting(1),
            News::Started(2, 3),
            News::NotStarted(4),
            News::NotAlone,
        ] {
            let line = String::from_utf8(news.line()).unwrap();
            assert_eq!(News::read(line.trim_end()), Some(news));
        }
    }
}
