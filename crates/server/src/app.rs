//! What all handlers share, and the way from a request to its handler.

use std::net::SocketAddr;
use std::sync::Arc;

use batchwright::JobQueue;
use batchwright::jobs::JobTypes;
use batchwright::progress::Metrics;

use crate::events::Events;
use crate::guard::Guard;
use crate::http::{self, Call, Head, Response};
use crate::observe::Observer;
use crate::openai::OpenAi;
use crate::overview::Overview;
use crate::problem::Problem;
use crate::records::Records;
use crate::router::{self, Route};
use crate::settings::LiveSettings;
use crate::webhooks::Doorbell;
use crate::{api, dashboard, openai, webhooks};

/// What all handlers share.
pub(crate) struct App {
    pub queue: JobQueue,
    /// The settings and where they are kept, where the server was given them.
    pub settings: Option<LiveSettings>,
    pub types: JobTypes,
    /// The kinds of jobs that the worker carries out.
    pub kinds: Vec<String>,
    /// Most bytes that a body of JSON lines may have.
    pub line_bytes: u64,
    pub metrics: Metrics,
    pub events: Arc<Events>,
    /// Who hears of the worker.
    pub observer: Arc<Observer>,
    pub overview: Overview,
    pub records: Records,
    pub openai: OpenAi,
    pub webhooks: Doorbell,
    pub guard: Guard,
}

impl App {
    fn routes() -> impl Iterator<Item = &'static Route> {
        [
            api::ROUTES,
            openai::ROUTES,
            webhooks::ROUTES,
            dashboard::ROUTES,
        ]
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
