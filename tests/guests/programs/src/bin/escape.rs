//! Tries every way out of its directories that is known to have worked somewhere.
//!
//! It expects `/release` read-write with a directory `inside`, `/other` read-write with a file `theirs`, and
//! `/frozen` read-only with a file `fixed` and a directory `deep`.

use std::fs::{self, File, OpenOptions};

use cofferdam_test_programs::tried;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
};

fn main() {
    fs::write("mine", "mine").expect("writing is granted");
    let directory = |wanted: &str| {
        let (root, _) = get_directories()
            .into_iter()
            .find(|(_, name)| name == wanted)
            .expect("it is granted");
        root
    };
    let (release, other, frozen, dot) = (
        directory("/release"),
        directory("/other"),
        directory("/frozen"),
        directory("."),
    );

    tried(
        "rename into another preopen",
        fs::rename("mine", "/other/mine"),
    );
    tried(
        "rename out of another preopen",
        fs::rename("/other/theirs", "theirs"),
    );
    tried(
        "link into another preopen",
        release.link_at(none(), "mine", &other, "mine"),
    );
    tried(
        "link out of another preopen",
        other.link_at(none(), "theirs", &release, "theirs"),
    );
    tried(
        "link out of read-only",
        frozen.link_at(none(), "fixed", &release, "fixed"),
    );
    tried(
        "link into read-only",
        release.link_at(none(), "mine", &frozen, "mine"),
    );
    let inside = open(&release, "inside", OpenFlags::DIRECTORY);
    tried(
        "rename from a directory into another preopen",
        inside.rename_at("../mine", &other, "mine"),
    );
    tried(
        "link through a directory of another preopen",
        release.link_at(none(), "mine", &other, "./mine"),
    );

    tried("write read-only", fs::write("/frozen/fixed", "changed"));
    tried("create in read-only", File::create("/frozen/new"));
    tried(
        "truncate read-only on opening",
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open("/frozen/fixed"),
    );
    let fixed = open(&frozen, "fixed", OpenFlags::empty());
    tried("truncate read-only by size", fixed.set_size(0));
    tried(
        "truncate read-only by flags",
        frozen.open_at(none(), "fixed", OpenFlags::TRUNCATE, DescriptorFlags::READ),
    );
    tried("write read-only directly", fixed.write(b"x", 0));
    tried("write read-only by stream", fixed.write_via_stream(0));
    tried("append to read-only by stream", fixed.append_via_stream());
    tried(
        "date a read-only file",
        fixed.set_times(NewTimestamp::Now, NewTimestamp::Now),
    );
    tried(
        "date a read-only path",
        frozen.set_times_at(none(), "fixed", NewTimestamp::Now, NewTimestamp::Now),
    );
    tried("remove read-only", fs::remove_file("/frozen/fixed"));
    tried(
        "remove a read-only directory",
        fs::remove_dir("/frozen/deep"),
    );
    tried(
        "rename inside read-only",
        frozen.rename_at("fixed", &frozen, "renamed"),
    );
    tried(
        "make a directory in read-only",
        fs::create_dir("/frozen/made"),
    );
    tried(
        "make a link in read-only",
        frozen.symlink_at("fixed", "link"),
    );
    let deep = open(&frozen, "deep", OpenFlags::DIRECTORY);
    tried(
        "create below read-only",
        deep.open_at(none(), "new", OpenFlags::CREATE, DescriptorFlags::WRITE),
    );

    tried(
        "absolute link",
        release.symlink_at("/etc/passwd", "absolute"),
    );
    let _ = release.symlink_at("../../../../../../etc", "out");
    tried("read through a link that leaves", fs::read("out/passwd"));
    tried(
        "open a link that leaves",
        release.open_at(follow(), "out", OpenFlags::empty(), DescriptorFlags::READ),
    );
    tried(
        "open a link that leaves, with a slash",
        fs::read_dir("out/"),
    );
    tried(
        "open a link that leaves, unfollowed with a slash",
        release.open_at(none(), "out/", OpenFlags::DIRECTORY, DescriptorFlags::READ),
    );
    // The link itself may be looked at; what it leads to may not.
    let beyond = release
        .stat_at(none(), "out/")
        .and_then(|stat| match stat.type_ {
            DescriptorType::Directory => Ok(()),
            _ => Err(ErrorCode::NotDirectory),
        });
    tried("stat through a link that leaves, with a slash", beyond);
    tried(
        "stat through a link that leaves",
        release.stat_at(follow(), "out"),
    );
    tried(
        "date through a link that leaves, with a slash",
        release.set_times_at(none(), "out/", NewTimestamp::Now, NewTimestamp::Now),
    );
    tried(
        "remove through a link that leaves, with a slash",
        fs::remove_dir("out/"),
    );
    tried(
        "hash through a link that leaves",
        release.metadata_hash_at(follow(), "out/"),
    );
    tried(
        "create through a link that leaves",
        File::create("out/cofferdam-was-here"),
    );
    tried(
        "make a directory through a link that leaves",
        fs::create_dir("out/cofferdam-was-here"),
    );
    let _ = release.symlink_at("..", "parent");
    tried("list through a link to the parent", fs::read_dir("parent/"));
    tried(
        "remove through a link to the parent",
        fs::remove_dir("parent/other"),
    );

    for path in [
        "../other/theirs",
        "/release/../other/theirs",
        "inside/../../other/theirs",
        "/etc/passwd",
        "/../etc/passwd",
    ] {
        tried(
            path,
            release.open_at(follow(), path, OpenFlags::empty(), DescriptorFlags::READ),
        );
    }
    tried(
        "rename to outside",
        release.rename_at("mine", &release, "../mine"),
    );
    tried(
        "link to outside",
        release.link_at(none(), "mine", &release, "../mine"),
    );
    tried(
        "link that follows",
        release.link_at(follow(), "mine", &release, "followed"),
    );

    // What must work.
    tried("rename inside", fs::rename("mine", "inside/mine"));
    tried(
        "rename from . to /release",
        dot.rename_at("inside/mine", &release, "mine"),
    );
    tried(
        "link inside",
        release.link_at(none(), "mine", &dot, "inside/linked"),
    );
    tried(
        "relative link",
        release.symlink_at("../mine", "inside/relative"),
    );
    tried("read through a relative link", fs::read("inside/relative"));
    tried("read read-only", fs::read("/frozen/fixed"));
}

fn none() -> PathFlags {
    PathFlags::empty()
}

fn follow() -> PathFlags {
    PathFlags::SYMLINK_FOLLOW
}

fn open(root: &Descriptor, path: &str, flags: OpenFlags) -> Descriptor {
    root.open_at(none(), path, flags, DescriptorFlags::READ)
        .expect("reading is granted")
}
