//! The processes below a process.

use std::fs;
use std::io;
use std::path::Path;

/// The processes below this one, also those that have ended and were not waited for.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut at = 0;
    while let Some(next) = found.get(at) {
        let below = children(*next);
        found.extend(below);
        at += 1;
    }
    found
}

/// The children of all threads of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"));
    let read = |task: io::Result<fs::DirEntry>| {
        fs::read_to_string(task.ok()?.path().join("children")).ok()
    };
    let texts: Vec<String> = tasks.into_iter().flatten().filter_map(read).collect();
    let numbers = texts.iter().flat_map(|text| text.split_whitespace());
    numbers.filter_map(|number| number.parse().ok()).collect()
}
