//! Tries to leave a step of a pipeline, which has `/release` and `/tmp` and nothing else.

use std::fs::{self, File};
use std::net::TcpStream;

use cofferdam_test_programs::tried;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::PathFlags;

fn main() {
    tried("write /release", fs::write("/release/mine", "mine"));
    fs::write("/tmp/mine", "mine").expect("writing to /tmp is granted");
    for path in [
        "/etc/passwd",
        "../canary.txt",
        "../../canary.txt",
        "../../../canary.txt",
        "/release/../../../canary.txt",
        "/tmp/../../../canary.txt",
    ] {
        tried(&format!("read {path}"), fs::read(path));
        tried(&format!("overwrite {path}"), fs::write(path, "changed"));
    }
    // A WASI program's `/` is its `.`, which is the release; anything more would be the host's.
    let beyond = match (names("/"), names(".")) {
        (Ok(root), Ok(release)) if root == release => Err("it is the release"),
        (Err(_), _) => Err("it cannot be listed"),
        _ => Ok(()),
    };
    tried("list /", beyond);
    tried(
        "rename into /tmp",
        fs::rename("/release/index.html", "/tmp/index.html"),
    );
    tried(
        "rename out of /tmp",
        fs::rename("/tmp/mine", "/release/theirs"),
    );
    tried(
        "hard link into /tmp",
        fs::hard_link("/release/index.html", "/tmp/linked"),
    );
    tried(
        "hard link out of /tmp",
        fs::hard_link("/tmp/mine", "/release/linked"),
    );

    let preopens = get_directories();
    let (tmp, _) = preopens
        .iter()
        .find(|(_, name)| name == "/tmp")
        .expect("/tmp is granted");
    tried(
        "absolute symlink",
        tmp.symlink_at("/etc/passwd", "absolute"),
    );
    let _ = tmp.symlink_at("../../../canary.txt", "relative");
    tried("read through a symlink", fs::read("/tmp/relative"));
    tried(
        "read through a symlink with a slash",
        fs::read("/tmp/relative/"),
    );
    tried(
        "hard link through a symlink",
        tmp.link_at(PathFlags::SYMLINK_FOLLOW, "relative", tmp, "canary"),
    );
    let large = File::create("/tmp/large").expect("creating in /tmp is granted");
    tried("4 TiB by set-size", large.set_len(4 << 40));
    tried("connect", TcpStream::connect("127.0.0.1:80"));
    println!(
        "cwd {}",
        std::env::current_dir()
            .map_or_else(|error| error.to_string(), |path| path.display().to_string())
    );
    for (name, _) in std::env::vars().filter(|(name, _)| !name.starts_with("COFFERDAM_")) {
        println!("env {name}");
    }
}

fn names(directory: &str) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<Vec<_>, _>>()?;
    names.sort();
    Ok(names)
}
