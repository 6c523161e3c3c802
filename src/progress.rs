//! Progress while work goes on, and what held it up.
//!
//! A [`ProgressNotifier`](crate::ProgressNotifier) receives [`Progress`](crate::Progress); a
//! [`Summary`](crate::Summary) is what is left when a run has ended.
//!
//! | to | use |
//! |---|---|
//! | see what a run is doing | [`Phase`] |
//! | see what kept a run from going faster | [`Bounds`] |
//! | read a time of day | [`Wall`] |

pub use crate::base::clock::Wall;
pub use crate::engine::bottleneck::Bounds;
pub use crate::observe::progress::Phase;
