//! What the test programs share: their config, and how they say what came of a trick.

use std::env;
use std::fmt::Display;

use serde_json::Value;

/// The step's config.
///
/// # Panics
///
/// When it is not JSON: a test passed something it did not mean.
#[must_use]
pub fn config() -> Value {
    env::var("COFFERDAM_CONFIG").map_or(Value::Null, |text| {
        serde_json::from_str(&text).expect("the config is JSON")
    })
}

/// A number of the config.
#[must_use]
pub fn number(name: &str, default: u64) -> u64 {
    config()[name].as_u64().unwrap_or(default)
}

/// A text of the config.
#[must_use]
pub fn text(name: &str, default: &str) -> String {
    config()[name].as_str().unwrap_or(default).to_owned()
}

/// Prints what came of a trick: `trick: refused (why)`, or that it worked.
pub fn tried<T, E: Display>(trick: &str, result: Result<T, E>) {
    match result {
        Ok(_) => println!("{trick}: WORKED"),
        Err(error) => println!("{trick}: refused ({error})"),
    }
}
