//! What calls cost: prices of models, estimates of what calls will cost, and limits of spending.

pub mod budget;
pub mod estimate;
pub mod prices;
pub mod table;
