//! Steps from one version of a store to the next, and how the stores of SQLite take them.
//!
//! A program that writes takes over an old store when it opens it: all steps in one transaction, and only while no other
//! process has the file open, because programs do not expect that tables change under them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use rustix::fs::{Access, access};

use super::atomic_file::place_new;
use super::disk::{folder_of, resolved, room, sync_folder};
use super::{Context, Error, ErrorKind, ProcessId, private};

/// A step to the next version of a store.
pub struct Step {
    /// Statements. On MySQL each of them may be repeated, and the program before can use the tables until the last one ran.
    pub sql: &'static str,
    /// Whether it writes whole tables anew. Then a copy of the file is kept until it is done.
    pub rewrites: bool,
}

/// The versions of a kind of store.
pub struct Versions {
    /// Identifies a file of this kind.
    pub application: i64,
    /// The first version whose files have that mark.
    pub marked: i64,
    /// The first version that can be taken over: that of commit 35927327.
    pub oldest: i64,
    /// The oldest version that commands which only look, and `results`, can use as it is. A step that they would notice
    /// raises it.
    pub readable: i64,
    /// From each version to the next one.
    pub steps: &'static [Step],
}

const fn step(sql: &'static str) -> Step {
    Step {
        sql,
        rewrites: false,
    }
}

/// The queue in a file, also that of a run: "bwjq".
pub const QUEUE: Versions = Versions {
    application: 0x6277_6a71,
    marked: 0,
    oldest: 17,
    readable: 17,
    steps: &[
        step(include_str!("queue_18.sql")),
        step(include_str!("queue_19.sql")),
    ],
};

/// The queue in MySQL.
#[cfg(feature = "mysql")]
pub const MYSQL: Versions = Versions {
    application: 0,
    marked: 0,
    oldest: 15,
    readable: 15,
    steps: &[
        step(include_str!("mysql_16.sql")),
        step(include_str!("mysql_17.sql")),
    ],
};

/// The server's own data, `server.db`: "bwsv".
pub const SERVER: Versions = Versions {
    application: 0x6277_7376,
    marked: 6,
    oldest: 5,
    readable: 6,
    steps: &[
        step(include_str!("server_6.sql")),
        step(include_str!("server_7.sql")),
    ],
};

/// The stores of a data folder.
const IN_A_FOLDER: [(&str, &Versions); 2] = [("llm_jobs.db", &QUEUE), ("server.db", &SERVER)];

/// How long a store is awaited that another process has open: it may be taking it over.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks at whether to go on waiting.
const LOOK: Duration = Duration::from_millis(20);

/// Until when a store is awaited.
pub(crate) struct Wait {
    until: Instant,
    ctx: Context,
}

impl Wait {
    /// At most so long, and until the context is cancelled.
    pub(crate) fn new(most: Duration, ctx: &Context) -> Self {
        Self {
            until: Instant::now() + most,
            ctx: ctx.clone(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until || self.ctx.is_cancelled()
    }
}

impl Versions {
    /// The version of this program.
    pub const fn newest(&self) -> i64 {
        self.oldest + self.steps.len() as i64
    }

    /// Whether they are those of a file with this mark and version.
    pub fn are_of(&self, application: i64, version: i64) -> bool {
        let unmarked = self.oldest..self.marked;
        application == self.application || application == 0 && unmarked.contains(&version)
    }

    /// Whether a store has this program's version. `of` names it.
    ///
    /// # Errors
    /// When it has a newer version, or one that is older than all steps.
    pub fn is_newest(&self, of: &str, found: i64) -> Result<bool, Error> {
        let (age, advice) = if found > self.newest() {
            ("a newer version", "Update batchwright")
        } else if found < self.oldest {
            ("a version before the first release", "Use that version")
        } else {
            return Ok(found == self.newest());
        };
        Err(unusable(format!(
            "{of} was written by {age} of batchwright (version {found} of its tables, this one knows {} to {}). {advice}, or \
             name another place",
            self.oldest,
            self.newest()
        )))
    }

    /// The steps from this version on, with the version that each leads to.
    pub fn steps_from(&self, version: i64) -> impl Iterator<Item = (i64, &Step)> {
        let all = (self.oldest + 1..).zip(self.steps);
        all.filter(move |(next, _)| *next > version)
    }

    /// Makes the store of a file that is not there, with all its tables, under another name, and then links it: a file without
    /// tables is a damaged one. Nothing if there is one by then.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(&self, path: &Path, tables: &str) -> rusqlite::Result<()> {
        if path.exists() {
            return Ok(());
        }
        let failed = |error: io::Error| {
            let code = match error.kind() {
                io::ErrorKind::StorageFull => ffi::SQLITE_FULL,
                _ => ffi::SQLITE_CANTOPEN,
            };
            rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
        };
        // A link to a file that is not there stays.
        let path = &resolved(path, 0).map_err(failed)?;
        // Other containers with this folder have processes with the same number.
        let draft = beside(path, &format!(".{}.new", ProcessId::new()));
        let make = || {
            private::open(File::options().write(true).create_new(true), &draft).map_err(failed)?;
            let conn = connect(&draft)?;
            let (mark, newest) = (self.application, self.newest());
            // The first written page fixes how large pages are, and that free ones can be given back.
            conn.execute_batch(&format!(
                "PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; BEGIN; {tables}; PRAGMA application_id = {mark};
                 PRAGMA user_version = {newest}; COMMIT"
            ))?;
            drop(conn);
            match place_new(&draft, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                placed => placed.map_err(failed),
            }
        };
        let made = make();
        let _ = fs::remove_file(draft);
        made.and_then(|()| sync_folder(path).map_err(failed))
    }

    /// Takes over the store in a file, if it has an older version, after a check of all stores in its folder.
    ///
    /// # Errors
    /// When another process has it open; when the disk has no room, or rights are missing; when a store of the folder is
    /// newer; when a step fails. The old store is as it was then. A cancelled context ends the wait for that process.
    pub fn take_over(&self, path: &Path, ctx: &Context) -> Result<(), Error> {
        self.take_over_within(path, &Wait::new(PATIENCE, ctx))
    }

    fn take_over_within(&self, path: &Path, wait: &Wait) -> Result<(), Error> {
        let mut is_checked = false;
        loop {
            let Some(found) = self.look(path, wait)? else {
                return Ok(());
            };
            if !std::mem::replace(&mut is_checked, true) {
                check_beside(path, wait)?;
                self.check_room(path, found)?;
            }
            match self.carry_out(path) {
                Err(Failed::Used) if !wait.is_over() => sleep(LOOK),
                Err(Failed::Used) => return Err(self.used(path, found)),
                Err(Failed::Step(error)) => {
                    let (shown, newest) = (path.display(), self.newest());
                    return Err(unusable(format!(
                        "{shown} could not be brought from version {found} to {newest} ({error}); it is as it was. Free some \
                         room on its disk, or use the batchwright that wrote it"
                    )));
                }
                Ok(()) => {
                    log::info!("{} has version {} now", path.display(), self.newest());
                    return Ok(());
                }
            }
        }
    }

    /// The version of a store that can be taken over. A file that cannot be read is judged when it is opened.
    fn look(&self, path: &Path, wait: &Wait) -> Result<Option<i64>, Error> {
        if check_whole(path).is_err() {
            return Ok(None);
        }
        let look = || -> rusqlite::Result<_> {
            let conn = connect(path)?;
            let unmarked =
                "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'direct_calls')";
            let (application, version, tables) = sqlite_header(&conn)?;
            let is_marked = application != 0 && tables > 0;
            let is_ours = is_marked || conn.query_row(unmarked, [], |row| row.get(0))?;
            Ok(is_ours.then_some((application, version)))
        };
        let found = loop {
            match look().map_err(Failed::from) {
                Err(Failed::Used) if !wait.is_over() => sleep(LOOK),
                found => break found,
            }
        };
        let Ok(Some((application, version))) = found else {
            return Ok(None);
        };
        if !self.are_of(application, version) {
            return Ok(None);
        }
        let is_newest = self.is_newest(&path.display().to_string(), version)?;
        Ok((!is_newest).then_some(version))
    }

    /// Fails if a disk has no room for the steps, or a file cannot be written.
    fn check_room(&self, path: &Path, from: i64) -> Result<(), Error> {
        let rewrites = self.steps_from(from).any(|(_, step)| step.rewrites);
        let bytes = fs::metadata(path).map_or(0, |found| found.len());
        // A copy, the log, and the log in the file.
        let needed = if rewrites { 3 * bytes } else { 0 } + (1 << 20);
        match room(folder_of(path)) {
            Some((free, _)) if free < needed => Err(unusable(format!(
                "{} is of version {from}; to bring it to {}, {} MB of room are needed on its disk, and {} MB are free. Nothing \
                 was changed",
                path.display(),
                self.newest(),
                needed.div_ceil(1_000_000),
                free / 1_000_000
            ))),
            _ => Ok(()),
        }
    }

    fn carry_out(&self, path: &Path) -> Result<(), Failed> {
        let conn = connect(path)?;
        // In this mode the log needs no shared memory, and the lock of the whole file: no other connection may be open.
        conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        let copy = beside(path, ".old");
        conn.execute_batch("BEGIN IMMEDIATE")?;
        let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if self.steps_from(found).any(|(_, step)| step.rewrites) {
            // The lock stays.
            conn.execute_batch("COMMIT")?;
            let _ = fs::remove_file(&copy);
            private::open(File::options().write(true).create_new(true), &copy)?;
            let copied = conn.execute("VACUUM INTO ?", [copy.to_string_lossy()]);
            copied.and_then(|_| conn.execute_batch("BEGIN IMMEDIATE"))?;
        }
        let steps = || {
            for (version, step) in self.steps_from(found) {
                conn.execute_batch(step.sql)?;
                conn.pragma_update(None, "user_version", version)?;
            }
            conn.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)")
        };
        let done = steps();
        // Closed, the transaction is rolled back unless it was committed.
        drop(conn);
        let _ = fs::remove_file(&copy);
        Ok(done?)
    }

    fn used(&self, path: &Path, found: i64) -> Error {
        let users = match &users(path)[..] {
            [] => "another program".to_owned(),
            users => users.join(", "),
        };
        let why = format!(
            "{} is of version {found}, and is brought to {} only while no other program has it open: end {users}, then start \
             this again",
            path.display(),
            self.newest()
        );
        Error::new(ErrorKind::Transient, why).with_storage()
    }
}

/// Why a store was not taken over.
enum Failed {
    /// Another connection is open.
    Used,
    Step(String),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Used,
            _ => Self::Step(error.to_string()),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Step(error.to_string())
    }
}

fn unusable(why: String) -> Error {
    Error::new(ErrorKind::Invalid, why).with_storage()
}

/// A connection that leaves the log of a store where it is.
pub(crate) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(Duration::ZERO)?;
    Ok(conn)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Fails if a file is empty, which no new one is, or is gone and has left its log. SQLite would begin anew, and remove the log.
///
/// # Errors
/// When one of both is so.
pub fn check_whole(path: &Path) -> Result<(), Error> {
    let (log, shown) = (beside(path, "-wal"), path.display());
    match path.metadata() {
        Ok(found) if found.len() == 0 => Err(unusable(format!(
            "{shown} is empty, so it is damaged: a new one has its tables from the beginning. Put a copy in its place. To begin \
             anew, and pay again for what was under way, remove it"
        ))),
        Err(_) if log.metadata().is_ok_and(|log| log.len() > 0) => Err(unusable(format!(
            "{shown} is gone, and its log {} is there: put it back beside its log. To begin anew, and pay again for what was \
             under way, remove the log",
            log.display()
        ))),
        _ => Ok(()),
    }
}

/// Checks version, rights and room of all stores in the folder of a store, before the first one changes.
///
/// # Errors
/// When one of them cannot be taken over.
pub(crate) fn check_beside(path: &Path, wait: &Wait) -> Result<(), Error> {
    for (name, versions) in IN_A_FOLDER {
        let path = folder_of(path).join(name);
        if !path.exists() {
            continue;
        }
        let Some(found) = versions.look(&path, wait)? else {
            continue;
        };
        for path in [&*path, folder_of(&path)] {
            if let Err(error) = access(path, Access::READ_OK | Access::WRITE_OK) {
                let shown = path.display();
                return Err(unusable(format!(
                    "{shown} cannot be written ({error}), and is of an earlier version, which has to be changed"
                )));
            }
        }
        versions.check_room(&path, found)?;
    }
    Ok(())
}

/// The processes that have locked a part of a file, as SQLite does while it has one open. Only Linux tells.
fn users(path: &Path) -> Vec<String> {
    let (Ok(file), Ok(locks)) = (fs::metadata(path), fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let number = format!(":{} ", file.ino());
    let of_file = locks.lines().filter(|line| line.contains(&number));
    let holders = of_file.filter_map(|line| line.split_whitespace().rev().nth(3)?.parse().ok());
    let holders: BTreeSet<u32> = holders.collect();
    // Files of other disks have the same number, and the numbers of disks there are not those of everywhere.
    let has_it = |pid: &&u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd"));
        let mut open = open.into_iter().flatten().flatten();
        let is_it = |found: fs::Metadata| (found.dev(), found.ino()) == (file.dev(), file.ino());
        **pid != std::process::id() && open.any(|file| file.path().metadata().is_ok_and(is_it))
    };
    let named = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("process {pid} ({})", name.trim())
    };
    holders.iter().filter(has_it).map(named).collect()
}

/// The application id, the version of the tables and the number of tables and indexes.
///
/// They are read in one statement. Three statements could see different states while another OS process creates the
/// file.
pub(crate) fn sqlite_header(db: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
    let about = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)
                 FROM pragma_application_id, pragma_user_version";
    db.query_row(about, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

#[cfg(test)]
mod tests;
