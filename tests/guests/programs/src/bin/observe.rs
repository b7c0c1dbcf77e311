//! Writes into `seen.txt` everything a program can see that differs between two runs or two machines, if anything
//! does.
use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn main() -> std::io::Result<()> {
    let mut seen = String::new();
    let mut see = |what: &str, value: String| {
        writeln!(seen, "{what}: {value}").expect("a string takes everything");
    };

    // Made in an order that no listing keeps by itself.
    fs::create_dir_all("listed")?;
    for name in ["m", "z", "a", "q", "b", "y", "c"] {
        fs::write(format!("listed/{name}"), name)?;
    }
    let listing = |directory: &str| -> std::io::Result<String> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names.join(" "))
    };

    let now = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_nanos())
    };
    see("wall clock", now().to_string());
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(cofferdam_test_programs::number(
        "sleep_ms", 3_600_000,
    )));
    see("a sleep", format!("{:?}", start.elapsed()));
    let mut looks = 0_u64;
    while start.elapsed()
        < Duration::from_millis(cofferdam_test_programs::number("wait_ms", 3_700_000))
    {
        looks += 1;
    }
    see("looks at the clock", looks.to_string());
    see("wall clock after", now().to_string());

    see(
        "random",
        format!("{:?}", wasip2::random::random::get_random_bytes(16)),
    );
    see(
        "insecure",
        format!(
            "{:?}",
            wasip2::random::insecure::get_insecure_random_bytes(16)
        ),
    );
    see(
        "seed",
        format!("{:?}", wasip2::random::insecure_seed::insecure_seed()),
    );
    let set: HashSet<u32> = (0..50).collect();
    see(
        "hash order",
        format!("{:?}", set.iter().collect::<Vec<_>>()),
    );

    see("listing", listing("listed")?);
    see("given listing", listing("given").unwrap_or_default());
    for path in ["listed", "listed/m", "given"] {
        let Ok(metadata) = fs::metadata(path) else {
            continue;
        };
        let time = |time: std::io::Result<SystemTime>| {
            let time = time
                .ok()
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            time.map_or(0, |time| time.as_nanos())
        };
        see(
            path,
            format!(
                "{} bytes, modified {}, accessed {}",
                metadata.len(),
                time(metadata.modified()),
                time(metadata.accessed())
            ),
        );
    }
    for (directory, _) in wasip2::filesystem::preopens::get_directories() {
        let hash = directory.metadata_hash();
        let links = directory.stat().map(|stat| stat.link_count).ok();
        see("directory", format!("{hash:?} {links:?}"));
    }

    let (zero, other) = (black_box(0.0_f64), black_box(0.0_f64));
    see("a NaN", format!("{:x}", (zero / other).to_bits()));
    see(
        "another",
        format!("{:x}", (-(zero / other)).sqrt().to_bits()),
    );
    let mut environment: Vec<_> = std::env::vars().collect();
    environment.sort();
    see("environment", format!("{environment:?}"));
    fs::write("seen.txt", &seen)?;
    print!("{seen}");
    Ok(())
}
