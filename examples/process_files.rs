//! Counts the functions and classes of every Python file below a folder, on all cores. A second run does only what
//! is new, changed or failed.
//!
//! `cargo run --release --features files --example process_files -- FOLDER [CHECKPOINT]`

use std::sync::Arc;

use batchwright::Progress;
use batchwright::processing::{BatchProcessor, ParallelConfig, ProcessingConfig, SourceFile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let folder = args.next().unwrap_or_else(|| "examples".into());
    let mut config = ProcessingConfig::new().pattern("**/*.py");
    if let Some(checkpoint) = args.next() {
        config = config.checkpoint(checkpoint);
    }
    let processor =
        BatchProcessor::new(config, ParallelConfig::new()).notifier(Arc::new(|now: &Progress| {
            eprint!("\r{} files", now.completed)
        }));

    let definitions = |file: &SourceFile| {
        let text = file.text()?;
        let defines = |line: &&str| {
            let words = ["def ", "async def ", "class "];
            words.iter().any(|word| line.trim_start().starts_with(word))
        };
        Ok(text.lines().filter(defines).count())
    };
    let batch = processor.process_directory(&folder, definitions)?;

    eprintln!();
    for (file, error) in batch.failures() {
        println!("{}: {} ({})", file.source_id, error, error.kind());
    }
    for file in &batch.left_out {
        let why = file.skip_reason.as_ref().map(ToString::to_string);
        println!("{}: left out, {}", file.name(), why.unwrap_or_default());
    }
    let found: usize = batch.successes().map(|(_, definitions)| definitions).sum();
    let stats = &batch.stats;
    println!(
        "{found} definitions in {} files, {:.1} MB, {:.0} files/s; {} failed, {} done before",
        stats.completed,
        stats.bytes as f64 / 1e6,
        stats.files_per_second,
        stats.failed,
        stats.skipped
    );
    Ok(())
}
