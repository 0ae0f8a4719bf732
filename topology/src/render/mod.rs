//! How a plan is shown: table, tree, picture, difference. Owns no decision: everything shown is in the
//! plan or the snapshot.

mod diff;
mod svg;
pub(crate) mod table;
mod tree;

pub use diff::PlanChange;
