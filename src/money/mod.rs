//! What calls cost: prices of models, limits of spending, and what was paid.

pub mod books;
pub mod budget;
pub mod ledger;
pub mod prices;
pub mod table;
