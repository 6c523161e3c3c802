//! Files processed in bulk, through the public API.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwright::processing::{
    BatchProcessor, ParallelConfig, ProcessTask, ProcessingConfig, SourceFile,
};
use batchwright::{Context, Error, ErrorKind, RetryPolicy};

struct Folder(tempfile::TempDir);

impl Folder {
    /// A folder with files `000.py`, `001.py`, … that each contain their number.
    fn of(files: usize) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for n in 0..files {
            folder.write(&format!("{n:03}.py"), &format!("n = {n}\n"));
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

fn processor(workers: usize) -> BatchProcessor {
    let parallel = ParallelConfig::new().max_workers(workers);
    BatchProcessor::new(at_once(), parallel)
}

fn at_once() -> ProcessingConfig {
    ProcessingConfig::new().retry(RetryPolicy::default().base_delay(Duration::ZERO))
}

fn text(file: &SourceFile<'_>) -> Result<String, Error> {
    file.text().map(Into::into)
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

#[test]
fn many_workers_return_the_results_of_one_and_lose_nothing() {
    let folder = Folder::of(300);
    let run = |workers| {
        let batch = processor(workers).process_directory(folder.0.path(), text);
        let batch = batch.unwrap();
        assert!(batch.stop.is_none());
        assert_eq!((batch.stats.completed, batch.stats.failed), (300, 0));
        assert_eq!(batch.stats.bytes, 10 * 6 + 90 * 7 + 200 * 8);
        let results = batch.results.into_iter();
        results
            .map(|file| (file.source_id, file.result.unwrap()))
            .collect::<Vec<_>>()
    };
    let one = run(1);
    assert_eq!(one[7], ("007.py".to_owned(), "n = 7\n".to_owned()));
    assert!(one.is_sorted());
    assert_eq!(run(4), one);
    for keep in [true, false] {
        let parallel = ParallelConfig::new().max_workers(4).chunk_size(8);
        let processor = BatchProcessor::new(at_once(), parallel.keep_order(keep));
        let stream = processor.process_files_streaming(folder.files(), text);
        let mut indexes: Vec<u64> = stream.unwrap().map(|file| file.index).collect();
        assert!(!keep || indexes.is_sorted());
        indexes.sort_unstable();
        assert_eq!(indexes, Vec::from_iter(0..300));
    }
}

#[test]
fn each_failure_affects_only_its_file_and_has_a_kind() {
    let folder = Folder::of(8);
    let mut tasks: Vec<ProcessTask> = folder.files().into_iter().map(ProcessTask::from).collect();
    let scanner = batchwright::sources::FileScanner::new();
    let found = scanner
        .scan_directory(folder.0.path(), &Context::new())
        .unwrap();
    tasks[1] = ProcessTask::from(&found[1]);
    folder.write("001.py", "something longer");
    fs::remove_file(folder.path("002.py")).unwrap();
    fs::write(folder.path("003.py"), b"ok\n\xff").unwrap();
    tasks[4] = ProcessTask::new(folder.0.path());
    tasks[5] = tasks[5].clone().with_max_file_size(2);
    let batch = processor(3)
        .process_files(tasks, |file| {
            assert!(!file.path().ends_with("006.py"), "six");
            text(file)
        })
        .unwrap();
    let kinds: Vec<Option<ErrorKind>> = batch
        .results
        .iter()
        .map(|file| file.result.as_ref().err().map(Error::kind))
        .collect();
    use ErrorKind::{Changed, Invalid, NotFound, Panic};
    let expected = [Changed, NotFound, Invalid, Invalid, Invalid, Panic].map(Some);
    assert_eq!(kinds[1..7], expected);
    let said = |n: usize| batch.results[n].result.as_ref().unwrap_err().message();
    let told = [said(3), said(6)];
    assert!(
        told[0].contains("line 2") && told[1].contains("six"),
        "{told:?}"
    );
    assert_eq!((batch.stats.completed, batch.stats.failed), (2, 6));
    let ended = (batch.successes().count(), batch.failures().count());
    assert_eq!(ended, (2, 6));
}

#[test]
fn temporary_failures_are_retried_automatically_and_others_on_demand() {
    let folder = Folder::of(3);
    let tries: [AtomicUsize; 3] = Default::default();
    let function = |file: &SourceFile<'_>| {
        let n: usize = file.text()?.trim()[4..].parse().unwrap();
        match (n, tries[n].fetch_add(1, Ordering::SeqCst)) {
            (1, 0 | 1) => Err(Error::new(ErrorKind::Transient, "busy")),
            (2, 0..=3) => Err(Error::new(ErrorKind::Transient, "still busy")),
            _ => Ok(n),
        }
    };
    let processor = processor(2);
    let batch = processor.process_files(folder.files(), function).unwrap();
    let attempts: Vec<u32> = batch.results.iter().map(|file| file.attempts).collect();
    assert_eq!(attempts, [1, 3, 4]);
    let failed = processor.recovery().unwrap().failed_files();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].path, folder.path("002.py"));
    assert_eq!(failed[0].kind, ErrorKind::Transient);
    assert_eq!(failed[0].attempts, 4);
    let again = processor.retry_failed(function).unwrap();
    assert_eq!(*again.results[0].result.as_ref().unwrap(), 2);
    assert!(processor.recovery().unwrap().failed_files().is_empty());
}

#[test]
fn an_endless_list_is_processed_only_a_few_files_ahead() {
    let folder = Folder::of(1);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let parallel = ParallelConfig::new().max_workers(3).chunk_size(8);
    let list = std::iter::repeat(folder.path("000.py"));
    let stream = BatchProcessor::new(at_once(), parallel)
        .process_files_streaming(list, move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
    for (before, _) in stream.take(500).enumerate() {
        let ahead = calls.load(Ordering::SeqCst) - before - 1;
        // In addition to the chunk: one that is being passed on, and the next one.
        assert!(ahead <= 8 + 2, "{ahead}");
    }
}

#[test]
fn the_next_run_processes_new_changed_and_failed_files() {
    let folder = Folder::of(20);
    let place = tempfile::tempdir().unwrap();
    let checkpoint = place.path().join("done.jsonl");
    let run = || {
        let config = at_once().checkpoint(&checkpoint);
        let processor = BatchProcessor::new(config, ParallelConfig::default());
        let batch = processor
            .process_directory(folder.0.path(), |file| {
                if file.text()?.contains("bad") {
                    Err(invalid("bad"))
                } else {
                    Ok(())
                }
            })
            .unwrap();
        let ids = batch.results.iter().map(|file| file.source_id.clone());
        (ids.collect::<Vec<_>>(), batch.stats.skipped)
    };
    folder.write("005.py", "bad");
    assert_eq!(run().0.len(), 20);
    assert_eq!(run(), (vec!["005.py".to_owned()], 19));
    folder.write("005.py", "good");
    folder.write("007.py", "other");
    folder.write("new.py", "new");
    let due = ["005.py", "007.py", "new.py"].map(str::to_owned).to_vec();
    assert_eq!(run(), (due, 18));
    assert_eq!(run(), (Vec::new(), 21));
}

#[test]
fn a_streamed_file_is_done_when_the_next_result_is_requested() {
    let folder = Folder::of(5);
    let place = tempfile::tempdir().unwrap();
    let checkpoint = place.path().join("done.jsonl");
    let config = at_once().checkpoint(&checkpoint);
    let stream = || {
        let processor = BatchProcessor::new(config.clone(), ParallelConfig::default());
        processor
            .process_files_streaming(folder.files(), text)
            .unwrap()
    };
    let mut first = stream();
    first.next().unwrap();
    first.next().unwrap();
    // A run that is killed now resumes after the first one.
    let lines = fs::read_to_string(&checkpoint).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    // It is unknown whether the second one has been saved.
    drop(first);
    let second = stream().finish();
    let paths = second.results.iter().map(|file| &file.file_path);
    assert!(paths.eq(&folder.files()[1..]));
    assert_eq!(second.stats.skipped, 1);
    assert_eq!(stream().finish().stats.skipped, 5);
}
