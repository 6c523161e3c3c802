//! What calls cost: prices of models, estimates of what calls will cost, limits of spending, and what was paid.

pub mod account;
pub mod books;
pub mod budget;
pub mod estimate;
pub mod ledger;
pub mod prices;
pub mod table;
