//! The page at `/`: what runs, what waits, and the settings, in one file without anything from elsewhere.

use crate::router::Route;

/// What is answered here.
pub(crate) const ROUTES: &[Route] = &[];
