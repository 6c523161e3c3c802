//! The file system of a file, according to Linux. SQLite's locks do not work on network file systems.

use std::path::Path;

/// File systems on which other machines do not see locks, or not reliably.
const NETWORK: [&str; 22] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "fuse.ceph",
    "fuse.davfs2",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
    "glusterfs",
];

/// The network file system that contains an absolute path, if any, according to the text of `/proc/self/mountinfo`.
pub(super) fn network_of<'a>(mountinfo: &'a str, path: &Path) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let Some((mount, source)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = mount.split(' ').nth(4) else {
            continue;
        };
        let Some(kind) = source.split(' ').next() else {
            continue;
        };
        let point = unescaped(point);
        // If two mounts have the same place, the later one is visible.
        if path.starts_with(&point) && best.is_none_or(|(length, _)| point.len() >= length) {
            best = Some((point.len(), kind));
        }
    }
    best.map(|(_, kind)| kind)
        .filter(|kind| NETWORK.contains(kind))
}

/// Decodes blank, tab, line feed and backslash, which the kernel writes as three octal digits.
fn unescaped(point: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .into_iter()
    .fold(point.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
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
