//! What all handlers share, and the way from a request to its handler.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use batchwright::config::{ConfigStore, SettingsWatch};
use batchwright::jobs::JobTypes;
use batchwright::progress::Metrics;
use batchwright::{JobQueue, LlmManager};
use parking_lot::Mutex;

use crate::events::Events;
use crate::guard::Guard;
use crate::http::{self, Call, Head, Response};
use crate::problem::Problem;
use crate::records::Records;
use crate::router::{self, Route};
use crate::{api, dashboard, openai};

/// What all handlers share.
pub(crate) struct App {
    pub queue: JobQueue,
    /// Who says which strategy is in force and why, where the server was given one.
    pub manager: Option<LlmManager>,
    /// The settings and where they are kept, where the server was given them.
    pub settings: Option<LiveSettings>,
    pub types: JobTypes,
    pub metrics: Metrics,
    pub events: Arc<Events>,
    pub records: Records,
    /// For what is uploaded, and what is to be fetched.
    pub folder: PathBuf,
    /// Most bytes that all uploads together may take up on the disk.
    pub upload_bytes: u64,
    pub guard: Guard,
}

/// Settings that may change while the server runs.
pub(crate) struct LiveSettings {
    pub watch: Mutex<SettingsWatch>,
    pub store: Arc<dyn ConfigStore>,
}

impl App {
    fn routes() -> impl Iterator<Item = &'static Route> {
        [api::ROUTES, openai::ROUTES, dashboard::ROUTES]
            .into_iter()
            .flatten()
    }
}

impl http::Service for App {
    fn admit(&self, head: &Head, reached: SocketAddr) -> Result<(), Response> {
        self.guard
            .check(head, reached)
            .and_then(|()| router::route(Self::routes(), head).map(drop))
            .map_err(|problem| problem.response(&head.path))
    }

    fn answer(&self, call: &mut Call<'_>) -> Response {
        let answer = |call: &mut Call<'_>| -> Result<Response, Problem> {
            let (handler, params) = router::route(Self::routes(), &call.head)?;
            call.params = params;
            handler(self, call)
        };
        answer(call).unwrap_or_else(|problem| problem.response(&call.head.path))
    }
}
