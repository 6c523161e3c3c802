//! Seams that tests and adventurous programs replace. **Anything here may change in any release.**
//!
//! | seam | what it replaces | its vocabulary |
//! |---|---|---|
//! | [`Transport`] | how bytes reach a provider | [`HttpTransport`], [`HttpRequest`], [`HttpReply`], [`Method`], [`Headers`], [`Transfer`], [`ReplyShare`] |
//! | [`Clock`] | time | [`SystemClock`], [`Time`], [`Wake`] |
//! | [`BatchClient`] | a provider's Batch API | [`BatchIntent`], [`BatchStage`], [`BatchInput`], [`BatchLimits`], [`Found`], [`BatchStatus`], [`BatchState`], [`BatchCounts`], [`Refused`], [`BatchLine`], [`BatchLineResult`] |
#![cfg_attr(
    feature = "queue",
    doc = "| [`JobStore`] | the database of jobs | [`WorkerId`], [`Wanted`], [`Claims`], [`Claimed`], [`Settlement`], [`ClaimOutcome`], [`Taking`], [`OnWork`], [`Batch`], [`BatchNo`], [`Waiting`], [`Filled`] |"
)]

pub use crate::base::clock::{Clock, SystemClock, Time, Wake};
pub use crate::llm::batch::{
    BatchClient, BatchCounts, BatchInput, BatchIntent, BatchLimits, BatchLine, BatchLineResult,
    BatchStage, BatchState, BatchStatus, Found, Refused,
};
pub use crate::llm::transport::{
    Headers, HttpReply, HttpRequest, HttpTransport, Method, ReplyShare, Transfer, Transport,
};
#[cfg(feature = "queue")]
pub use crate::queue::store::{
    Batch, BatchNo, ClaimOutcome, Claimed, Claims, Filled, JobStore, MOST_CRASHES, OnWork,
    SUSPECT_CRASHES, Settlement, Taking, Waiting, Wanted, WorkerId,
};
