//! The directories of a guest: what it may see, change and fill.
//!
//! | question | answer |
//! |---|---|
//! | writing, creating, truncating under a read-only preopen | `not-permitted` |
//! | more bytes or files than granted | `insufficient-space`, and the step's verdict remembers it |
//! | a hard link or a rename between two preopens | `cross-device`, as between two disks: programs then copy |
//! | a symbolic link with an absolute target | `not-permitted` |
//! | a path or a link that leaves its preopen | `not-permitted` |
//! | more open descriptors than granted | `insufficient-memory` |

mod create;
mod descriptors;
mod listing;
mod quota;
mod sameness;
mod shelf;
mod streams;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::filesystem::{
    Descriptor, Dir, FsPerms, OpenMode, WasiFilesystemCtx, WasiFilesystemCtxView,
};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, HostDescriptor as _,
    MetadataHashValue, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{FsError, FsResult};
use wasmtime_wasi::{ResourceTable, WasiCtx};

use self::listing::Listings;
use self::quota::Exceeded;
pub(crate) use self::quota::Quota;
use self::sameness::Sameness;
pub(crate) use self::shelf::Shelf;
use self::streams::Growing;
use crate::control::Deadline;
use crate::spec::{Access, Preopen};

/// The preopen that is also the guest's `.`.
const RELEASE: &str = "/release";

/// Which preopen a descriptor descends from.
pub(crate) type Root = usize;

/// A directory as the guest gets it.
#[derive(Clone)]
pub(crate) struct GuestDirectory {
    pub(crate) name: String,
    pub(crate) directory: Dir,
    pub(crate) root: Root,
    pub(crate) access: Access,
}

/// A descriptor that the guest holds.
struct Held {
    root: Root,
    /// How long the file was when this descriptor, or a stream from it, last knew. It may have been shortened since:
    /// then a write past its new end leaves a gap that was already paid for when the file had been that long. If it
    /// is longer by now, whoever writes past this finds out by asking.
    known_end: Arc<AtomicU64>,
}

/// The filesystem of one store.
pub(crate) struct Files {
    /// Asks the runtime to do its file calls on the calling thread.
    context: WasiFilesystemCtx,
    preopens: Vec<GuestDirectory>,
    held: HashMap<u32, Held>,
    handles_limit: usize,
    peak_handles: usize,
    listings: Listings,
    /// When the step is reproducible: the files it asked about.
    reproducible: Option<Sameness>,
    quota: Arc<Quota>,
    /// When long calls break off; never when there is none.
    deadline: Option<Deadline>,
}

impl Files {
    pub(crate) fn new(
        preopens: Vec<Preopen>,
        handles_limit: u64,
        quota: Arc<Quota>,
        reproducible: bool,
    ) -> Self {
        let mut directories = Vec::with_capacity(preopens.len() + 1);
        for (root, preopen) in preopens.into_iter().enumerate() {
            let (perms, mode) = match preopen.access {
                Access::ReadOnly => (FsPerms::ReadOnly, OpenMode::READ),
                Access::ReadWrite => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
            };
            let directory = Dir::new(preopen.directory, perms, mode, true);
            if preopen.guest_path == RELEASE {
                let directory = directory.clone();
                directories.push(GuestDirectory {
                    name: ".".to_owned(),
                    directory,
                    root,
                    access: preopen.access,
                });
            }
            directories.push(GuestDirectory {
                name: preopen.guest_path,
                directory,
                root,
                access: preopen.access,
            });
        }
        Self {
            context: context().clone(),
            preopens: directories,
            held: HashMap::new(),
            handles_limit: usize::try_from(handles_limit).unwrap_or(usize::MAX),
            peak_handles: 0,
            listings: Listings::default(),
            reproducible: reproducible.then(Sameness::default),
            quota,
            deadline: None,
        }
    }

    /// Lets no call go on past this.
    pub(crate) fn until(self, deadline: Deadline) -> Self {
        Self {
            deadline: Some(deadline),
            ..self
        }
    }

    /// A file's metadata as the guest sees it.
    fn shown(&self, stat: DescriptorStat) -> DescriptorStat {
        match &self.reproducible {
            Some(_) => sameness::stat(stat),
            None => stat,
        }
    }

    /// A file's number as the guest sees it.
    fn numbered(&mut self, hash: MetadataHashValue) -> MetadataHashValue {
        match &mut self.reproducible {
            Some(sameness) => sameness.number(hash),
            None => hash,
        }
    }

    /// What had this number is gone: the file system may give it to another file, or may not.
    fn forget(&mut self, removed: Option<MetadataHashValue>) {
        if let (Some(sameness), Some(real)) = (&mut self.reproducible, removed) {
            sameness.forget(&real);
        }
    }

    pub(crate) fn peak_handles(&self) -> u64 {
        self.peak_handles as u64
    }

    /// The preopen that an absolute path, or one relative to `/release`, lies in, and the rest of the path.
    pub(crate) fn resolve<'p>(&self, path: &'p str) -> Option<(&GuestDirectory, &'p str)> {
        if !path.starts_with('/') {
            return self
                .preopens
                .iter()
                .find(|preopen| preopen.name == ".")
                .map(|preopen| (preopen, path));
        }
        self.preopens
            .iter()
            .filter_map(|preopen| {
                let rest = path.strip_prefix(preopen.name.trim_end_matches('/'))?;
                (rest.is_empty() || rest.starts_with('/'))
                    .then(|| (preopen, rest.trim_start_matches('/')))
            })
            .max_by_key(|(preopen, _)| preopen.name.len())
    }

    fn adopt(&mut self, descriptor: &Resource<Descriptor>, root: Root) {
        let known_end = Arc::default();
        self.held.insert(descriptor.rep(), Held { root, known_end });
        self.peak_handles = self.peak_handles.max(self.held.len());
    }
}

/// Where the runtime keeps that file calls are done on the calling thread. It can only be had from a whole context,
/// random generators and all, so it is made once.
fn context() -> &'static WasiFilesystemCtx {
    static CONTEXT: OnceLock<WasiFilesystemCtx> = OnceLock::new();
    CONTEXT.get_or_init(|| {
        WasiCtx::builder()
            .allow_blocking_current_thread(true)
            .build()
            .filesystem()
            .clone()
    })
}

/// How host calls see the filesystem.
pub(crate) struct FilesystemView<'a> {
    pub(crate) files: &'a mut Files,
    pub(crate) table: &'a mut ResourceTable,
}

/// Names [`FilesystemView`] to the linker.
pub(crate) struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = FilesystemView<'a>;
}

impl FilesystemView<'_> {
    /// The runtime's own implementation, over the same table.
    fn inner(&mut self) -> WasiFilesystemCtxView<'_> {
        WasiFilesystemCtxView {
            ctx: &mut self.files.context,
            table: self.table,
        }
    }

    fn root(&self, fd: &Resource<Descriptor>) -> FsResult<Root> {
        self.held(fd).map(|held| held.root)
    }

    fn held(&self, fd: &Resource<Descriptor>) -> FsResult<&Held> {
        let held = self.files.held.get(&fd.rep());
        held.ok_or_else(|| ErrorCode::BadDescriptor.into())
    }

    /// The file behind a descriptor that may be written, and how long it is known to be.
    fn writable(&self, fd: &Resource<Descriptor>) -> FsResult<Growing> {
        match self.table.get(fd)? {
            Descriptor::File(file) if file.perms.write_not_permitted() => {
                Err(ErrorCode::NotPermitted.into())
            }
            Descriptor::File(file) => Ok(Growing {
                file: Arc::clone(&file.file),
                known_end: Arc::clone(&self.held(fd)?.known_end),
                quota: Arc::clone(&self.files.quota),
            }),
            Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    /// Refuses to join two preopens. What is read-only is refused as such first.
    fn same_root(&self, a: &Resource<Descriptor>, b: &Resource<Descriptor>) -> FsResult<()> {
        for fd in [a, b] {
            if let Descriptor::Dir(directory) = self.table.get(fd)?
                && directory.perms.write_not_permitted()
            {
                return Err(ErrorCode::NotPermitted.into());
            }
        }
        if self.root(a)? == self.root(b)? {
            Ok(())
        } else {
            Err(ErrorCode::CrossDevice.into())
        }
    }

    /// The real number of what has this name and no other. Only a guest that does not see it needs it.
    async fn last_name(
        &mut self,
        directory: &Resource<Descriptor>,
        path: &str,
    ) -> Option<MetadataHashValue> {
        self.files.reproducible.as_ref()?;
        let again = || Resource::new_borrow(directory.rep());
        let (flags, path) = (PathFlags::empty(), path.to_owned());
        let mut inner = self.inner();
        let stat = inner.stat_at(again(), flags, path.clone()).await.ok()?;
        if stat.type_ != DescriptorType::Directory && stat.link_count > 1 {
            return None;
        }
        inner.metadata_hash_at(again(), flags, path).await.ok()
    }

    fn refund_file<T>(&self, result: FsResult<T>) -> FsResult<T> {
        if result.is_err() {
            self.files.quota.return_file();
        }
        result
    }

    /// Creates a file that is not there yet.
    async fn create_new(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        if let Descriptor::Dir(directory) = self.table.get(&fd)?
            && let Some(created) =
                create::create_new(directory, path_flags, &path, open_flags, flags)
        {
            return Ok(self.table.push(created?)?);
        }
        self.inner()
            .open_at(fd, path_flags, path, open_flags, flags)
            .await
    }

    /// Opens a file, charging for it when that creates it.
    async fn open_charged(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        if !open_flags.contains(OpenFlags::CREATE) {
            return self
                .inner()
                .open_at(fd, path_flags, path, open_flags, flags)
                .await;
        }
        if open_flags.contains(OpenFlags::EXCLUSIVE) {
            self.files.quota.take_file().map_err(exceeded)?;
            let result = self
                .create_new(fd, path_flags, path, open_flags, flags)
                .await;
            return self.refund_file(result);
        }

        // Only creating exclusively tells whether a file was created, so that is tried first.
        let granted = self.files.quota.has_file();
        if granted {
            self.files.quota.take_file().map_err(exceeded)?;
            let again = Resource::new_borrow(fd.rep());
            let exclusive = open_flags | OpenFlags::EXCLUSIVE;
            let result = self
                .create_new(again, path_flags, path.clone(), exclusive, flags)
                .await;
            match self.refund_file(result) {
                Err(error) if is(&error, ErrorCode::Exist) => {}
                result => return result,
            }
        }

        // It exists, or may not be created. Creating implies write access, and so does this.
        let mut existing_flags = flags | DescriptorFlags::WRITE;
        if !flags.contains(DescriptorFlags::WRITE) {
            existing_flags |= DescriptorFlags::READ;
        }
        let again = Resource::new_borrow(fd.rep());
        let existing = open_flags ^ OpenFlags::CREATE;
        match self
            .inner()
            .open_at(again, path_flags, path.clone(), existing, existing_flags)
            .await
        {
            Err(error) if is(&error, ErrorCode::NoEntry) => {}
            result => return result,
        }

        // A link that leads to nothing yet, which creating fills.
        self.files.quota.take_file().map_err(exceeded)?;
        let result = self
            .inner()
            .open_at(fd, path_flags, path, open_flags, flags)
            .await;
        self.refund_file(result)
    }
}

fn is(error: &FsError, code: ErrorCode) -> bool {
    error.downcast_ref() == Some(&code)
}

fn exceeded(Exceeded: Exceeded) -> FsError {
    ErrorCode::InsufficientSpace.into()
}
