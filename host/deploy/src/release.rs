//! What becomes of releases once they are frozen.
//!
//! - `changes`: what one release has that another has not
//! - `history`: every move of a project's pointer, and what there is to tell of it
//! - `rollback`: serving an earlier release again
//! - `sharing`: one copy on disk of what releases have in common
//! - `retention`: which releases and packages are kept, and for how long
//! - `removal`: a package, and a whole project, taken away

mod changes;
mod history;
mod removal;
mod retention;
mod rollback;
mod sharing;

pub use changes::{FileChange, FileChanges, Tally};
pub use history::{Activation, Cause, StepTime};
pub use rollback::Rollback;

pub(crate) use history::Entry;
pub(crate) use retention::{Retention, RetentionRules};
pub(crate) use sharing::Sharing;
