//! Progress while work goes on, and what held it up.
//!
//! A [`ProgressNotifier`](crate::ProgressNotifier) receives [`Progress`](crate::Progress); a
//! [`Summary`](crate::Summary) is what is left when a run has ended.
//!
//! | to | use |
//! |---|---|
//! | see what a run is doing | [`Phase`] |
//! | see what kept a run from going faster | [`Bottlenecks`] |
//! | read a time of day | [`Timestamp`] |

pub use crate::base::clock::Timestamp;
pub use crate::engine::bottleneck::Bottlenecks;
pub use crate::observe::progress::Phase;
