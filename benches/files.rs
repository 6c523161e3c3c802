//! What files cost: finding them below a folder with and without a look at their contents, judging those that are named,
//! and processing each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::Context;
use batchwright::processing::{BatchProcessor, ParallelConfig, ProcessingConfig, SourceFile};
use batchwright::sources::FileScanner;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;

const FOLDERS: usize = 20;
const FILES: usize = 50;
const LINES: usize = 200;

/// A repository of a thousand files of Python, of about 8 KiB each, and as many that are ignored.
fn tree() -> TempDir {
    let tree = tempfile::tempdir().expect("there is a folder for temporary files");
    let write = |path: PathBuf, text: &str| fs::write(path, text).expect("the disk has room");
    fs::create_dir(tree.path().join(".git")).expect("the folder is new");
    write(tree.path().join(".gitignore"), "*.log\n");
    let text = "def f(x):\n    return x + 1  # as is plain to see\n".repeat(LINES / 2);
    for folder in 0..FOLDERS {
        let folder = tree.path().join(format!("package{folder}"));
        fs::create_dir(&folder).expect("the folder is new");
        for file in 0..FILES {
            write(folder.join(format!("module{file}.py")), &text);
            write(folder.join(format!("module{file}.log")), "left out");
        }
    }
    tree
}

fn found(scanner: &FileScanner, folder: &Path) -> Vec<PathBuf> {
    let files = scanner.scan_directory(folder, &Context::new());
    let files = files.expect("the folder is there");
    files.into_iter().map(|file| file.path).collect()
}

fn files(c: &mut Criterion) {
    let tree = tree();
    let folder = tree.path();
    let mut group = c.benchmark_group("files");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .measurement_time(Duration::from_secs(5))
        .throughput(Throughput::Elements((FOLDERS * FILES) as u64));
    let scanner = FileScanner::new();
    let names = scanner.clone().check_contents(false);
    let all = found(&scanner, folder);
    assert_eq!(all.len(), FOLDERS * FILES);
    group.bench_function("scan, names", |b| b.iter(|| found(&names, folder)));
    group.bench_function("scan, contents", |b| b.iter(|| found(&scanner, folder)));
    group.bench_function("filter named files", |b| {
        b.iter(|| scanner.filter_files(all.clone(), &Context::new()));
    });
    let lines = |file: &SourceFile| Ok(file.text()?.lines().count());
    group.bench_function("process", |b| {
        b.iter(|| {
            let processor = BatchProcessor::new(ProcessingConfig::new(), ParallelConfig::new());
            let batch = processor.process_directory(folder, lines);
            assert!(
                batch
                    .expect("the folder is there")
                    .failures()
                    .next()
                    .is_none()
            );
        });
    });
    group.finish();
}

criterion_group!(benches, files);
criterion_main!(benches);
