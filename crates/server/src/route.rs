//! What a table of routes has in each row.

use crate::access::Access;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// Handles a request.
pub(crate) type Handler = fn(&App, &mut Call<'_>) -> Result<Response, Problem>;

/// A method and a path, with their handler, and with what the token of a request must allow.
pub(crate) struct Route {
    pub method: &'static str,
    /// A part in braces matches any one part of a path.
    pub path: &'static str,
    pub access: Access,
    pub handler: Handler,
}

impl Route {
    pub const fn get(path: &'static str, access: Access, handler: Handler) -> Self {
        Self::new("GET", path, access, handler)
    }

    pub const fn post(path: &'static str, access: Access, handler: Handler) -> Self {
        Self::new("POST", path, access, handler)
    }

    pub const fn put(path: &'static str, access: Access, handler: Handler) -> Self {
        Self::new("PUT", path, access, handler)
    }

    pub const fn delete(path: &'static str, access: Access, handler: Handler) -> Self {
        Self::new("DELETE", path, access, handler)
    }

    const fn new(
        method: &'static str,
        path: &'static str,
        access: Access,
        handler: Handler,
    ) -> Self {
        Self {
            method,
            path,
            access,
            handler,
        }
    }
}
