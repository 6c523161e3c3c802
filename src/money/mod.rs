//! What calls cost: prices of models, and what was paid.

pub mod books;
pub mod ledger;
pub mod prices;
pub mod table;
