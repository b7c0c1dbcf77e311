//! Creating a file that must not be there yet: what an unpacked archive does for each of its entries.
//!
//! This is the runtime's own way, flag for flag: one `openat2` that the kernel keeps beneath the directory. But the
//! runtime asks the kernel afterwards whether it has opened a file or a directory, and what was just created
//! exclusively is a file. Whatever does not go smoothly here is left to the runtime.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use wasmtime_wasi::filesystem::{Descriptor, Dir, File, OpenMode};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, OpenFlags, PathFlags,
};

/// What the runtime creates files with; the process's mask takes from it.
const MODE: u32 = 0o666;

/// Creates the file; `None` when the runtime is to do it, or to say why not.
pub(super) fn create_new(
    directory: &Dir,
    path_flags: PathFlags,
    path: &str,
    open_flags: OpenFlags,
    flags: DescriptorFlags,
) -> Option<Result<Descriptor, ErrorCode>> {
    let creating = OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::TRUNCATE;
    let known = DescriptorFlags::READ | DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY;
    let plain = open_flags | OpenFlags::TRUNCATE == creating && flags | known == known;
    if !plain || directory.perms.write_not_permitted() {
        return None;
    }
    let (mut mode, mut access) = (OpenMode::WRITE, OFlags::WRONLY);
    if flags.contains(DescriptorFlags::READ) || !flags.contains(DescriptorFlags::WRITE) {
        (mode, access) = (OpenMode::READ | OpenMode::WRITE, OFlags::RDWR);
    }
    if !path_flags.contains(PathFlags::SYMLINK_FOLLOW) {
        access |= OFlags::NOFOLLOW;
    }
    let opened = rustix::fs::openat2(
        &*directory.dir,
        path,
        access | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::from_raw_mode(MODE),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    );
    match opened {
        Ok(file) => Some(Ok(Descriptor::File(File::new(
            file.into(),
            directory.perms,
            mode,
            true,
        )))),
        Err(Errno::EXIST) => Some(Err(ErrorCode::Exist)),
        Err(_) => None,
    }
}
