//! What calls cost: prices of models, estimates of what calls will cost, and limits of spending.

pub mod batch_rate;
pub mod budget;
pub mod call_rate;
pub mod deadline;
pub mod duration;
pub mod estimate;
pub mod forecast;
pub mod outlook;
pub mod prices;
pub mod replies;
pub mod table;
pub mod workload;
