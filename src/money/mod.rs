//! What calls cost: prices of models, and estimates of what calls will cost.

pub mod duration;
pub mod estimate;
pub mod prices;
pub mod replies;
pub mod table;
pub mod workload;
