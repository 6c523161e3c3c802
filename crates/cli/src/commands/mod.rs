//! The commands, one file or folder each. Their arguments are in [`crate::args`].

pub mod cancel;
pub mod config;
pub mod doctor;
pub mod exec;
pub mod export;
pub mod providers;
pub mod restore;
pub mod results;
pub mod run;
pub mod scan;
pub mod serve;
pub mod simulate;
pub mod status;
pub mod submit;
pub mod work;
