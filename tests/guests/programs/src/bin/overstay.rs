//! Goes on for longer than it may, in the way that the config's `how` names.
//!
//! What works leaves a trail: `/release/began` when it begins, `/release/beat` each time it has done something. What
//! waits does so for `after_ms`, and leaves `/release/woke` if it ever wakes.

use std::fs;
use std::time::Duration;

use cofferdam_test_programs::{number, text};
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};
use wasip2::io::poll::poll;

fn main() {
    let how = text("how", "");
    let after = Duration::from_millis(number("after_ms", 0));
    mark("began");
    println!("{how}");
    match how.as_str() {
        "write" => trail(|| {}),
        "compute" => trail(|| {
            std::hint::black_box((0..10_000_u64).fold(0, u64::wrapping_add));
        }),
        "print" => trail(|| println!("and on")),
        "report" => trail(|| cofferdam_sdk::progress(1, None, "and on")),
        "list" => trail(|| {
            let entries = fs::read_dir("/many").expect("listing is granted");
            std::hint::black_box(entries.count());
        }),
        "random" => trail(|| {
            std::hint::black_box(wasip2::random::random::get_random_bytes(64 << 10));
        }),
        "sleep" => std::thread::sleep(after),
        "poll" => {
            let moment = subscribe_duration(nanoseconds(after));
            let later = subscribe_duration(nanoseconds(2 * after));
            poll(&[&moment, &later]);
        }
        "block" => subscribe_duration(nanoseconds(after)).block(),
        "fetch" => fetch(&text("to", ""), after),
        how => panic!("there is no way {how}"),
    }
    mark("woke");
}

/// Works for ever, and says so after each piece of work.
fn trail(mut work: impl FnMut()) {
    loop {
        work();
        mark("beat");
    }
}

fn mark(name: &str) {
    fs::write(format!("/release/{name}"), name).expect("writing is granted");
}

/// Asks a peer that never answers, and waits.
fn fetch(to: &str, after: Duration) {
    let request = OutgoingRequest::new(Fields::new());
    request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some(to)))
        .and_then(|()| request.set_path_with_query(Some("/never")))
        .expect("it can be said");
    let response = outgoing_handler::handle(request, None).expect("it is granted");
    let moment = subscribe_duration(nanoseconds(after));
    poll(&[&response.subscribe(), &moment]);
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("it is short")
}
