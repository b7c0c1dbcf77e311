//! The compiled plugin, in the sandbox that a server runs it in.

/// Runs it over each directory in `tests/fixtures` and compares what it wrote and said with what is recorded
/// there. `cofferdam plugin test --update` records anew.
#[test]
fn the_fixtures_come_out_as_recorded() {
    cofferdam_sdk::testing::check_fixtures(env!("CARGO_MANIFEST_DIR"));
}
