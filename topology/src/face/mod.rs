//! How a plan is shown to people. Owns no decision: everything shown is in the plan or the snapshot.

mod table;
