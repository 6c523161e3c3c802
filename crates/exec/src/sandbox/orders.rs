//! What the watchdog of a run reads from its standard input: its orders, then news of commands.

use std::io::BufRead;
use std::path::PathBuf;

/// What it reads first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    pub run: String,
    /// The process whose commands are watched.
    pub batchwright: i32,
    /// The folder of the run, which goes when all is over.
    pub folder: PathBuf,
    pub memory: Option<u64>,
    pub processes: Option<u64>,
    /// All children of batchwright but this one are commands, or were left behind by some.
    pub owns_children: bool,
    /// The cgroup that holds those of the commands.
    pub cgroups: Option<PathBuf>,
}

/// News of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The command of this number is going to be started.
    Starting(u64),
    /// This is its first process.
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
    pub fn encode(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;

        let limit = |limit: Option<u64>| limit.map_or_else(String::new, |limit| limit.to_string());
        let head = format!(
            "{}\n{}\n{}\n{}\n{}\n",
            self.run,
            self.batchwright,
            limit(self.memory),
            limit(self.processes),
            u8::from(self.owns_children)
        );
        let mut orders = head.into_bytes();
        let cgroups = self.cgroups.as_deref().unwrap_or("".as_ref());
        for path in [&*self.folder, cgroups] {
            let path = path.as_os_str().as_bytes();
            // Its length, since a path may hold line ends.
            orders.extend(format!("{}\n", path.len()).into_bytes());
            orders.extend(path);
        }
        orders
    }

    pub fn read(input: &mut impl BufRead) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt;

        let mut line = || {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            line.strip_suffix('\n').map(str::to_owned)
        };
        let limit = |text: String| match text.as_str() {
            "" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let (run, batchwright) = (line()?, line()?.parse().ok()?);
        let (memory, processes) = (limit(line()?)?, limit(line()?)?);
        let owns_children = line()? == "1";
        let mut path = || {
            let mut length = String::new();
            input.read_line(&mut length).ok()?;
            let mut path = vec![0; length.strip_suffix('\n')?.parse().ok()?];
            input.read_exact(&mut path).ok()?;
            Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
        };
        Some(Self {
            run,
            batchwright,
            folder: path()?,
            memory,
            processes,
            owns_children,
            cgroups: Some(path()?).filter(|path| !path.as_os_str().is_empty()),
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
            let encoded = orders.encode();
            assert_eq!(Orders::read(&mut encoded.as_slice()), Some(orders));
        }
        assert_eq!(Orders::read(&mut "r\n1\n\n".as_bytes()), None);
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
