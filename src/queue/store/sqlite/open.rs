//! Opening: which files are accepted or rejected, and the creation of new ones.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::{FairMutex, Mutex};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::base::disk::resolved;
use crate::base::migrations::{QUEUE, check_whole, sqlite_header};
use crate::base::{Error, private};
use crate::queue::store::statements::{Fault, invalid};

use super::readers::Readers;
use super::writer::be_patient;
use super::{Sqlite, SqliteOptions, movable};

const SCHEMA: &str = include_str!("schema.sql");

/// Size in bytes to which the write-ahead log is truncated once all of it is in the database.
const WAL_LIMIT: i64 = 16 << 20;

pub(in crate::queue::store) fn open(path: &Path, options: SqliteOptions) -> Result<Sqlite, Error> {
    if options.is_there && !path.exists() {
        return Err(invalid(format!(
            "{}: this queue does not exist",
            path.display()
        )));
    }
    let path = prepared(path)?;
    if movable::is_of_a_run(&path) {
        movable::check(&path)?;
    }
    check_whole(&path)?;
    if !options.is_there {
        let made = QUEUE.create(&path, SCHEMA);
        made.map_err(|error| Fault::from(error).in_file(&path))?;
    }
    if !options.as_it_is {
        QUEUE.take_over(&path, &options.ctx)?;
    }
    let name = path.clone().into_os_string();
    let mut store = connect(path, name, false, options)?;
    if store.place.is_movable && !store.place.options.only_looks {
        store.hold().map_err(|fault| store.place.fail(fault))?;
    }
    Ok(store)
}

/// A database of this OS process, which exists until its last connection is closed. Data that is too long for a
/// database is in a separate temporary folder.
pub(in crate::queue::store) fn open_in_memory(options: SqliteOptions) -> Result<Sqlite, Error> {
    let name = format!("batchwright-{}", uuid::Uuid::now_v7());
    let uri = format!("file:/{name}?vfs=memdb");
    let beside = std::env::temp_dir().join(name);
    connect(beside, uri.into(), true, options)
}

/// The numbers that a file keeps if it is renamed.
pub(super) fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// A database, and how connections to it are opened.
pub(in crate::queue::store) struct Place {
    /// Absolute; in memory, a path that does not exist.
    pub(in crate::queue::store) path: PathBuf,
    name: OsString,
    /// Flags of all connections.
    flags: OpenFlags,
    pub(super) options: SqliteOptions,
    /// Whether it is the store of a run, which users move.
    pub(super) is_movable: bool,
    /// Which file it is; `None` in memory.
    pub(super) file: Option<(u64, u64)>,
}

impl Place {
    pub(super) fn fail(&self, fault: impl Into<Fault>) -> Error {
        fault.into().in_file(&self.path)
    }

    /// Fails if the file was removed or replaced, because writes to it would be lost.
    pub(super) fn still_there(&self) -> Result<(), Error> {
        let Some(file) = self.file else {
            return Ok(());
        };
        let shown = self.path.display();
        match fs::metadata(&self.path).map(|found| identity(&found)) {
            Ok(found) if found == file => Ok(()),
            Ok(_) => Err(invalid(format!(
                "{shown} was replaced by another file while it was open. Start again to use the new \
                 one; nothing was written to either"
            ))),
            Err(_) if self.is_movable => Err(invalid(format!(
                "{shown} no longer exists: its run has ended, or it was moved"
            ))),
            Err(error) => Err(invalid(format!(
                "{shown} was removed while it was open, or its folder was ({error}). Put it back, or \
                 start again to begin a new one"
            ))),
        }
    }

    fn connect(&self, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
        let mut conn = Connection::open_with_flags(&self.name, self.flags | flags)?;
        common(&mut conn)?;
        Ok(conn)
    }

    /// A connection that writes.
    fn writer(&self) -> Result<Connection, rusqlite::Error> {
        let mut write = OpenFlags::SQLITE_OPEN_READ_WRITE;
        // A file has been made by now.
        let is_in_memory = self.flags.contains(OpenFlags::SQLITE_OPEN_URI);
        write.set(OpenFlags::SQLITE_OPEN_CREATE, is_in_memory);
        let conn = self.connect(write)?;
        movable::keep_log(&conn, self.is_movable)?;
        conn.pragma_update(None, "synchronous", "NORMAL")?;
        Ok(conn)
    }

    pub(super) fn reader(&self) -> Result<Connection, Error> {
        // Checked before opening: closing a connection to another file of this name would drop the locks on this one's
        // log.
        self.still_there()?;
        let conn = self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY);
        let conn = conn.map_err(|error| self.fail(error))?;
        let set = conn.pragma_update(None, "cache_size", -2_048);
        set.map_err(|error| self.fail(error))?;
        Ok(conn)
    }
}

fn connect(
    path: PathBuf,
    name: OsString,
    in_memory: bool,
    options: SqliteOptions,
) -> Result<Sqlite, Error> {
    let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_URI, in_memory);
    let mut place = Place {
        is_movable: movable::is_of_a_run(&path),
        path,
        name,
        flags,
        options,
        file: None,
    };
    let begin = || -> Result<_, Fault> {
        let mut conn = place.writer()?;
        set_up(&mut conn, &place, in_memory)?;
        Ok(conn)
    };
    let conn = begin().map_err(|fault| place.fail(fault))?;
    if !in_memory {
        let cannot = |error| invalid(format!("{} cannot be read: {error}", place.path.display()));
        place.file = Some(identity(&fs::metadata(&place.path).map_err(cannot)?));
    }
    let mut copier = place.writer().map_err(|error| place.fail(error))?;
    be_patient(&mut copier, false).map_err(|error| place.fail(error))?;
    Ok(Sqlite {
        watcher: Mutex::new(place.reader()?),
        readers: Readers::new(place.reader()?),
        copier: Mutex::new(copier),
        writer: FairMutex::new(conn),
        is_user: false,
        place,
    })
}

/// The absolute path, in an existing folder that can contain a database.
fn prepared(path: &Path) -> Result<PathBuf, Error> {
    let shown = path.display();
    let cannot = |what: &str, error: std::io::Error| {
        invalid(format!(
            "{what} {shown} cannot be used: {error}. Name a folder that this user may write to"
        ))
    };
    let name = path
        .file_name()
        .ok_or_else(|| invalid(format!("{shown} names no file")))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    private::make_folder(folder).map_err(|error| cannot("the folder of", error))?;
    let folder = fs::canonicalize(folder).map_err(|error| cannot("the folder of", error))?;
    // Through a link, SQLite would put the log next to the file, and another process next to the link.
    let path = resolved(&folder.join(name), 0).map_err(|error| cannot("the file", error))?;
    // Opening a pipe would wait for its other end.
    if path.exists() && !path.is_file() {
        return Err(invalid(format!(
            "{shown} is not a file; the path of a database file was expected"
        )));
    }
    // Only Linux reports the file system; elsewhere only the documentation warns.
    if let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo")
        && let Some(kind) = network_of(&mounts, &path)
    {
        return Err(invalid(format!(
            "{} lies on a network file system ({kind}), on which SQLite's locks do not hold. Name a place on a local disk: an \
             output, or a data folder (--data-dir or BATCHWRIGHT_HOME)",
            path.display()
        )));
    }
    Ok(path)
}

/// Settings of every connection.
fn common(conn: &mut Connection) -> Result<(), rusqlite::Error> {
    // SQLite makes its cache anew whenever another connection has written. Each time, glibc would give that memory back
    // to the system, and a worker would take a seventh more time. A larger block that is freed raises the size from
    // which it does that (M_MMAP_THRESHOLD in mallopt(3)).
    drop(std::hint::black_box(vec![0_u8; 256 << 10]));
    be_patient(conn, true)?;
    conn.set_prepared_statement_cache_capacity(128);
    // Otherwise a statement with a bound LIMIT is compiled again for each execution.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "cache_size", -8_192)
}

fn set_up(conn: &mut Connection, place: &Place, in_memory: bool) -> Result<(), Fault> {
    if conn.is_readonly("main")? {
        return Err(invalid(format!(
            "{} can only be read. The file and its folder must be writable for this user",
            place.path.display()
        ))
        .into());
    }
    if in_memory {
        conn.execute_batch(SCHEMA)?;
        return Ok(conn.pragma_update(None, "user_version", QUEUE.newest())?);
    }
    check_version(conn, place)?;
    use_wal(conn, &place.path)?;
    conn.pragma_update(None, "journal_size_limit", WAL_LIMIT)?;
    // A commit that also copies the log takes long, so a worker copies it earlier. This setting is for programs without
    // a worker. A log that grows further may fill the disk that it has to be copied to.
    Ok(conn.pragma_update(None, "wal_autocheckpoint", 2_000)?)
}

/// Rejects files of other programs before anything is written to them, damaged ones, and those of another version.
fn check_version(conn: &Connection, place: &Place) -> Result<(), Fault> {
    let shown = place.path.display();
    let (application, version, tables) = sqlite_header(conn)?;
    if tables == 0 {
        return Err(Fault::Odd("it has no tables"));
    }
    if !QUEUE.are_of(application, version) {
        return Err(invalid(format!(
            "{shown} is a database of another program; it is left alone. Name another data folder"
        ))
        .into());
    }
    let is_newest = QUEUE.is_newest(&shown.to_string(), version)?;
    let stays = is_newest || place.options.as_it_is && version >= QUEUE.readable;
    if !stays {
        return Err(invalid(format!(
            "{shown} is of an earlier version ({version}): batchwright work, serve or submit brings it to {}",
            QUEUE.newest()
        ))
        .into());
    }
    Ok(())
}

/// If two processes open a new file at once, it may be locked in a way that does not call the busy handler.
fn use_wal(conn: &Connection, path: &Path) -> Result<(), Fault> {
    let start = Instant::now();
    loop {
        let mode = conn
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
            Ok(_) => {
                return Err(invalid(format!(
                    "{} lies on a file system without shared memory, which the queue needs. Name a \
                     folder on a local disk",
                    path.display()
                ))
                .into());
            }
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && start.elapsed() < Duration::from_secs(10) =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

// The file system of a file, according to Linux. SQLite's locks do not work on network file systems.

/// File systems on which other machines do not see locks, or not reliably.
const NETWORK: &str = "9p afs beegfs ceph cifs coda davfs fuse.ceph fuse.davfs2 fuse.gcsfuse fuse.glusterfs \
     fuse.rclone fuse.s3fs fuse.sshfs gpfs lustre ncpfs nfs nfs4 smb3 smbfs glusterfs";

/// The network file system that contains an absolute path, if any, according to the text of `/proc/self/mountinfo`.
pub(super) fn network_of<'a>(mountinfo: &'a str, path: &Path) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let Some((mount, source)) = line.split_once(" - ") else {
            continue;
        };
        let (Some(point), Some(kind)) = (mount.split(' ').nth(4), source.split(' ').next()) else {
            continue;
        };
        // A blank in a name is written so.
        let point = point.replace("\\040", " ");
        // If two mounts have the same place, the later one is visible.
        if path.starts_with(&point) && best.is_none_or(|(length, _)| point.len() >= length) {
            best = Some((point.len(), kind));
        }
    }
    best.map(|(_, kind)| kind)
        .filter(|kind| NETWORK.split(' ').any(|known| known == *kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:35 / /srv/home rw,relatime shared:20 - nfs4 server:/home rw,vers=4.2
41 40 254:2 / /srv/home/local rw - xfs /dev/vdb rw
42 22 0:36 / /mnt/my\\040share rw - cifs //box/share rw
43 22 0:37 / /over rw - nfs box:/a rw
44 43 0:38 / /over rw - tmpfs none rw
45 22 0:39 / /fuse rw - fuse.sshfs me@box: rw
";

    #[test]
    fn the_innermost_and_latest_mount_decides() {
        let of = |path: &str| network_of(MOUNTS, Path::new(path));
        assert_eq!(of("/var/lib/llm_jobs.db"), None);
        assert_eq!(of("/srv/home/a/llm_jobs.db"), Some("nfs4"));
        assert_eq!(of("/srv/home/local/llm_jobs.db"), None);
        assert_eq!(of("/srv/homework/llm_jobs.db"), None);
        assert_eq!(of("/mnt/my share/llm_jobs.db"), Some("cifs"));
        assert_eq!(of("/over/llm_jobs.db"), None);
        assert_eq!(of("/fuse/llm_jobs.db"), Some("fuse.sshfs"));
    }
}
