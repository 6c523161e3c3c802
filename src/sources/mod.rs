//! Source files: found below a folder, checked, and split into units for prompts.
//!
//! ```
//! use batchwright::Context;
//! use batchwright::sources::FileScanner;
//!
//! # fn main() -> Result<(), batchwright::Error> {
//! let scanner = FileScanner::new().pattern("**/*.rs");
//! for file in scanner.scan_directory("src", &Context::new())? {
//!     match &file.skip_reason {
//!         None => println!("{} ({} bytes)", file.name(), file.size),
//!         Some(reason) => println!("{}: {reason}", file.name()),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | find the files below a folder | [`FileScanner`], [`SymlinkPolicy`] |
//! | read what was found, and why a file is skipped | [`FileInfo`], [`SkipReason`], [`LeftOut`], [`shown_path`] |
//! | split a file into functions, classes, lines or tokens | [`Split`], [`Unit`], [`UnitKind`] |
//! | split all files of a folder, on all threads | [`FileScanner::split_directory`], [`SplitFile`] |

mod definitions;
mod filter;
mod info;
mod language;
mod python;
mod scan;
mod split;
mod text;
mod units;

pub use filter::SymlinkPolicy;
pub use info::{FileInfo, LeftOut, SkipReason, shown_path};
pub use language::UnitKind;
pub use scan::FileScanner;
#[cfg(test)]
pub(crate) use scan::tests::tree;
pub use split::{Split, Unit};
pub(crate) use text::{decode, open_regular};
pub use units::SplitFile;
