//! Seams that tests and adventurous programs replace. **Anything here may change in any release.**
//!
//! | seam | what it replaces | its vocabulary |
//! |---|---|---|
//! | [`Transport`] | sends bytes to a provider | [`HttpTransport`], [`HttpRequest`], [`HttpReply`], [`HttpMethod`], [`HttpHeaders`], [`HttpTransfer`], [`ReplyShare`] |
//! | [`PublicResolver`] | resolves names if only public addresses are allowed | [`is_public_address`] |
//! | [`Clock`] | time | [`SystemClock`], [`Time`], [`Wake`] |
//! | [`AtomicFile`] | writes a file atomically | [`make_private_folder`], [`open_private`], [`disk_space`] |
//! | [`named_file`] | opens a file that a user names | |
//! | [`copy_beside`] | keeps the contents of an open file that was removed | [`same_file`] |
//! | [`Pool`] | runs tasks other than prompts | [`TaskEnd`], [`PoolEnd`] |
//! | [`replacement`] | what to use instead of a removed name | [`quoted`] |
//! | [`Optional`] | changes a builder only under a condition | |
//! | [`UniqueJson`] | reads JSON, and rejects an object that names a field twice | |
//! | [`BatchClient`] | a provider's Batch API | [`BatchIntent`], [`BatchStage`], [`BatchInput`], [`BatchLimits`], [`ListedBatches`], [`BatchStatus`], [`BatchState`], [`BatchCounts`], [`BatchRefusal`], [`RefusalOutcome`], [`RequestName`], [`BatchLine`], [`BatchLineResult`] |
#![cfg_attr(
    feature = "queue",
    doc = "| [`WorkerId`] | how a worker of a [`Store`](crate::queue::Store) takes and ends jobs | [`ClaimRequest`], [`ClaimReply`], [`ClaimedJob`], [`JobBudget`], [`Settlement`], [`Charge`], [`ClaimOutcome`], [`MAX_CRASHES`], [`SUSPECT_CRASHES`] |
| [`Versions`] | takes over a store of an earlier version | [`SERVER`], [`check_whole`], [`read_form`], [`write_form`] |
| [`ServerStep`] | what a queue knows of a server | [`Apart`] |"
)]

#[cfg(feature = "queue")]
pub use crate::base::Charge;
pub use crate::base::atomic_file::AtomicFile;
pub use crate::base::clock::{Clock, SystemClock, Time, Wake};
pub use crate::base::disk::room as disk_space;
pub use crate::base::disk::{copy_beside, same_file};
#[cfg(feature = "queue")]
pub use crate::base::form::{read as read_form, write as write_form};
pub use crate::base::json_read::UniqueJson;
#[cfg(feature = "queue")]
pub use crate::base::migrations::{SERVER, Versions, check_whole};
pub use crate::base::named_file;
pub use crate::base::names::{quoted, replacement};
pub use crate::base::optional::Optional;
pub use crate::base::private::{make_folder as make_private_folder, open as open_private};
pub use crate::llm::batch::{
    BatchClient, BatchCounts, BatchInput, BatchIntent, BatchLimits, BatchLine, BatchLineResult,
    BatchRefusal, BatchStage, BatchState, BatchStatus, ListedBatches, RefusalOutcome, RequestName,
};
pub use crate::llm::transport::{
    HttpHeaders, HttpMethod, HttpReply, HttpRequest, HttpTransfer, HttpTransport, PublicResolver,
    ReplyShare, Transport, is_public_address,
};
pub use crate::pool::{Pool, PoolEnd, TaskEnd};
#[cfg(feature = "queue")]
pub use crate::queue::store::{
    Apart, ClaimOutcome, ClaimReply, ClaimRequest, ClaimedJob, JobBudget, MAX_CRASHES,
    SUSPECT_CRASHES, ServerStep, Settlement, WorkerId,
};
