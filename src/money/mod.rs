//! What calls cost: prices of models, estimates of what calls will cost, limits of spending, and what was paid.

pub mod account;
pub mod batch_rate;
pub mod books;
pub mod budget;
pub mod call_rate;
pub mod deadline;
pub mod duration;
pub mod estimate;
pub mod forecast;
pub mod ledger;
pub mod outlook;
pub mod prices;
pub mod replies;
pub mod table;
pub mod workload;
