//! The input of a run's watchdog: first its orders, in an environment variable, then news of commands on its
//! standard input.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::encoding::{optional_path, os_path};

/// The orders of the watchdog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    pub run: String,
    /// The process whose commands it watches.
    pub batchwright: i32,
    /// The folder of the run, which is removed at the end.
    #[serde(with = "os_path")]
    pub folder: PathBuf,
    pub memory: Option<u64>,
    pub processes: Option<u64>,
    /// All children of batchwright except the watchdog are commands, or were left behind by commands.
    pub owns_children: bool,
    /// The cgroup that contains those of the commands.
    #[serde(with = "optional_path")]
    pub cgroups: Option<PathBuf>,
}

/// News of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The command with this number is about to start.
    Starting(u64),
    /// The first process of the command.
    Started(u64, u32),
    /// The launcher that starts the commands with this number, one after the other.
    Serving(u64, u32),
    /// It could not be started.
    NotStarted(u64),
    /// Batchwright begins to start processes that are not announced here.
    NotAlone,
    /// The run ends, and batchwright waits for the watchdog.
    Over,
}

impl News {
    /// A line of text.
    pub fn line(self) -> Vec<u8> {
        match self {
            Self::Starting(number) => format!("{number} starting\n"),
            Self::Started(number, pid) => format!("{number} {pid}\n"),
            Self::Serving(number, pid) => format!("{number} +{pid}\n"),
            Self::NotStarted(number) => format!("{number} not\n"),
            Self::NotAlone => "not alone\n".to_owned(),
            Self::Over => "run over\n".to_owned(),
        }
        .into_bytes()
    }

    pub fn read(line: &str) -> Option<Self> {
        let (number, what) = line.split_once(' ')?;
        let number = number.parse();
        Some(match what {
            "alone" => Self::NotAlone,
            "over" => Self::Over,
            "starting" => Self::Starting(number.ok()?),
            "not" => Self::NotStarted(number.ok()?),
            pid => match pid.strip_prefix('+') {
                Some(pid) => Self::Serving(number.ok()?, pid.parse().ok()?),
                None => Self::Started(number.ok()?, pid.parse().ok()?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::encoding::{decode, encode};
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
            assert_eq!(decode(encode(&orders).as_bytes()), Some(orders));
        }
        assert_eq!(decode::<Orders>(b"[]"), None);
        for news in [
            News::Starting(1),
            News::Started(2, 3),
            News::Serving(5, 6),
            News::NotStarted(4),
            News::NotAlone,
            News::Over,
        ] {
            let line = String::from_utf8(news.line()).unwrap();
            assert_eq!(News::read(line.trim_end()), Some(news));
        }
    }
}
