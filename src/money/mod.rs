//! What calls cost: prices of models, and limits of spending.

pub mod budget;
pub mod prices;
pub mod table;
