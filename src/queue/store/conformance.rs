//! What every store of jobs must do, as tests that know nothing of any database.
