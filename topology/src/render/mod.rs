//! Shows a plan as table, tree, drawing or difference. It decides nothing: everything shown is in the plan or the
//! snapshot.

mod diff;
mod svg;
pub(crate) mod table;
mod tree;

pub use diff::PlanChange;
