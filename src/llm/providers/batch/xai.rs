//! Batches of xai.

use std::collections::HashSet;
use std::io::Write;

use crate::base::error::Error;
use crate::llm::batch::{BatchInput, BatchIntent, BatchLine, BatchStage, BatchStatus, Found};
use crate::llm::providers::content::invalid;
use crate::llm::providers::vendor::Vendor;
use crate::llm::request::Request;

use super::Wire;
use super::http::Http;

/// The wire.
pub(super) struct Xai;

fn not_yet<T>() -> Result<T, Error> {
    Err(invalid("batches of xai are not made yet".to_owned()))
}

impl Wire for Xai {
    fn line(&self, _: &Vendor, _: &str, _: &Request, _: &str) -> Result<Vec<u8>, Error> {
        not_yet()
    }

    fn advance(
        &self,
        _: &Http<'_>,
        _: &BatchIntent,
        _: &BatchStage,
        _: &mut dyn BatchInput,
    ) -> Result<BatchStage, Error> {
        not_yet()
    }

    fn find(
        &self,
        _: &Http<'_>,
        _: &BatchIntent,
        _: &BatchStage,
        _: &HashSet<String>,
    ) -> Result<Found, Error> {
        not_yet()
    }

    fn discard(&self, _: &Http<'_>, _: &str) -> Result<(), Error> {
        not_yet()
    }

    fn status(&self, _: &Http<'_>, _: &str) -> Result<BatchStatus, Error> {
        not_yet()
    }

    fn download(&self, _: &Http<'_>, _: &str, _: &str, _: &mut dyn Write) -> Result<(), Error> {
        not_yet()
    }

    fn read(&self, _: &Vendor, _: &[u8]) -> Result<BatchLine, Error> {
        not_yet()
    }

    fn cancel(&self, _: &Http<'_>, _: &str) -> Result<(), Error> {
        not_yet()
    }
}
