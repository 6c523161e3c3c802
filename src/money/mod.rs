//! What calls cost: prices of models.

pub mod prices;
pub mod table;
