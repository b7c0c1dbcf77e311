//! Two of these share `/shared`, with a directory `door` in it. With the role `swap` it puts a link that leaves in the
//! place of the door, and the door back, again and again; with `knock` it goes through the door meanwhile.

use std::fs::{self, OpenOptions};
use std::io;

use wasip2::filesystem::preopens::get_directories;

/// The swapping step goes on for as long as the other.
const ENOUGH: &str = "/shared/enough";

/// How often the other goes through the door at most, and how often it wants to have met the link.
const KNOCKS: u32 = 200_000;
const MEETINGS: u32 = 50;

fn main() {
    if cofferdam_test_programs::text("role", "") == "swap" {
        swap();
    } else {
        knock();
    }
}

fn swap() {
    let (shared, _) = get_directories()
        .into_iter()
        .find(|(_, name)| name == "/shared")
        .expect("it is granted");
    while fs::metadata(ENOUGH).is_err() {
        shared
            .rename_at("door", &shared, "aside")
            .expect("renaming is granted");
        shared
            .symlink_at("../outside", "door")
            .expect("linking is granted");
        shared.unlink_file_at("door").expect("removing is granted");
        shared
            .rename_at("aside", &shared, "door")
            .expect("renaming is granted");
    }
}

fn knock() {
    let mut refused = 0;
    for _ in 0..KNOCKS {
        let tries: [io::Result<()>; 7] = [
            fs::write("/shared/door/theirs", "theirs"),
            fs::write("/shared/door/mine", "mine"),
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open("/shared/door/theirs")
                .map(drop),
            fs::create_dir("/shared/door/made").and_then(|()| fs::remove_dir("/shared/door/made")),
            fs::read_dir("/shared/door/").map(drop),
            fs::rename("/shared/door/mine", "/shared/door/moved"),
            fs::remove_file("/shared/door/moved"),
        ];
        refused += tries
            .iter()
            .filter(|tried| {
                tried
                    .as_ref()
                    .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            })
            .count();
        if refused >= MEETINGS as usize {
            break;
        }
    }
    println!("refused {refused}");
    fs::write(ENOUGH, "").expect("writing is granted");
}
