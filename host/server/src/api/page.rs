//! What the lists have in common: how much of one is asked for, from where, and where the rest begins.

use cofferdam_deploy::MAX_PAGE;

use super::problem::Problem;

/// How many entries are asked for: the query's `limit`, or the list's own number.
pub(super) fn limit(text: Option<&str>, default: u32) -> Result<u32, Problem> {
    let Some(text) = text else {
        return Ok(default);
    };
    text.parse()
        .ok()
        .filter(|limit| (1..=MAX_PAGE).contains(limit))
        .ok_or_else(|| {
            Problem::bad_request(format!(
                "the limit {text:?} is not a number from 1 to {MAX_PAGE}"
            ))
        })
}

/// The query's `before`, where entries have numbers.
pub(super) fn before(text: Option<&str>) -> Result<Option<u64>, Problem> {
    text.map(|text| {
        text.parse()
            .map_err(|_| Problem::bad_request(format!("before is {text:?}; it is a number")))
    })
    .transpose()
}

/// What to give as `before` for the next page; nothing when this one is not full.
pub(super) fn next<T, N>(page: &[T], limit: u32, name: impl Fn(&T) -> N) -> Option<N> {
    let full = page.len() == limit as usize;
    page.last().filter(|_| full).map(name)
}
