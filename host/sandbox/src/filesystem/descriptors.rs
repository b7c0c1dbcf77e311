//! `wasi:filesystem` over the runtime's own implementation.
//!
//! Whatever only looks is handed on as it is. Whatever writes, creates or joins two directories is checked here
//! first, and then handed on, so that the runtime's permission checks still apply to it.

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream,
    ErrorCode, Filesize, Host, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue,
    NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::sameness::Sameness;
use super::streams::{ReadStream, WriteStream};
use super::{FilesystemView, exceeded};

impl preopens::Host for FilesystemView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let preopens = self.files.preopens.clone();
        let mut directories = Vec::with_capacity(preopens.len());
        for preopen in preopens {
            let descriptor = self.table.push(Descriptor::Dir(preopen.directory))?;
            self.files.adopt(&descriptor, preopen.root);
            directories.push((descriptor, preopen.name));
        }
        Ok(directories)
    }
}

impl Host for FilesystemView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.inner().convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.inner().filesystem_error_code(error)
    }
}

impl HostDescriptor for FilesystemView<'_> {
    // Written here: streams.

    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        let file = match self.table.get(&fd)? {
            Descriptor::File(file) => file.file.clone(),
            Descriptor::Dir(_) => return Err(ErrorCode::IsDirectory.into()),
        };
        let stream: DynInputStream =
            Box::new(ReadStream::at(file, self.files.quota.clone(), offset));
        Ok(self.table.push(stream)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        let growing = self.writable(&fd)?;
        let stream: DynOutputStream = Box::new(WriteStream::at(growing, offset));
        Ok(self.table.push(stream)?)
    }

    fn append_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let growing = self.writable(&fd)?;
        let stream: DynOutputStream = Box::new(WriteStream::append(growing));
        Ok(self.table.push(stream)?)
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        buffer: Vec<u8>,
        offset: Filesize,
    ) -> FsResult<Filesize> {
        self.writable(&fd)?.write_at(&buffer, offset)?;
        Ok(buffer.len() as Filesize)
    }

    // Charged here, done by the runtime.

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        let growing = self.writable(&fd)?;
        let growth = size.saturating_sub(growing.file.metadata()?.len());
        self.files.quota.take_bytes(growth).map_err(exceeded)?;
        let result = self.inner().set_size(fd, size).await;
        if result.is_err() {
            self.files.quota.return_bytes(growth);
        }
        result
    }

    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let root = self.root(&fd)?;
        if self.files.held.len() >= self.files.handles_limit {
            // WASI has no word for too many open files; this one says that trying later may help.
            return Err(ErrorCode::InsufficientMemory.into());
        }
        let opened = self
            .open_charged(fd, path_flags, path, open_flags, flags)
            .await?;
        self.files.adopt(&opened, root);
        self.files.quota.note_opened();
        Ok(opened)
    }

    async fn create_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        self.files.quota.take_file().map_err(exceeded)?;
        let result = self.inner().create_directory_at(fd, path).await;
        self.refund_file(result)
    }

    async fn symlink_at(
        &mut self,
        fd: Resource<Descriptor>,
        target: String,
        path: String,
    ) -> FsResult<()> {
        if target.starts_with('/') {
            return Err(ErrorCode::NotPermitted.into());
        }
        self.files.quota.take_file().map_err(exceeded)?;
        let result = self.inner().symlink_at(fd, target, path).await;
        self.refund_file(result)
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path_flags: PathFlags,
        old_path: String,
        new_descriptor: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.same_root(&fd, &new_descriptor)?;
        self.files.quota.take_file().map_err(exceeded)?;
        let result = self
            .inner()
            .link_at(fd, old_path_flags, old_path, new_descriptor, new_path)
            .await;
        self.refund_file(result)
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new_descriptor: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.same_root(&fd, &new_descriptor)?;
        let replaced = self.last_name(&new_descriptor, &new_path).await;
        self.inner()
            .rename_at(fd, old_path, new_descriptor, new_path)
            .await?;
        self.files.forget(replaced);
        Ok(())
    }

    async fn read_directory(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DirectoryEntryStream>> {
        self.list(&fd)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.files.held.remove(&fd.rep());
        HostDescriptor::drop(&mut self.inner(), fd)
    }

    // Handed on as they are.

    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
        length: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        self.inner().advise(fd, offset, length, advice).await
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner().sync_data(fd).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.inner().get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.inner().get_type(fd).await
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.inner().set_times(fd, accessed, modified).await
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        length: Filesize,
        offset: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        let read = self.inner().read(fd, length, offset).await?;
        self.files.quota.note_read(read.0.len() as u64);
        Ok(read)
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner().sync(fd).await
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        let stat = self.inner().stat(fd).await?;
        Ok(self.files.shown(stat))
    }

    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        let stat = self.inner().stat_at(fd, path_flags, path).await?;
        Ok(self.files.shown(stat))
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.inner()
            .set_times_at(fd, path_flags, path, accessed, modified)
            .await
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.inner().readlink_at(fd, path).await
    }

    async fn remove_directory_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FsResult<()> {
        let removed = self.last_name(&fd, &path).await;
        self.inner().remove_directory_at(fd, path).await?;
        self.files.forget(removed);
        Ok(())
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        let removed = self.last_name(&fd, &path).await;
        self.inner().unlink_file_at(fd, path).await?;
        self.files.forget(removed);
        Ok(())
    }

    async fn is_same_object(
        &mut self,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        self.inner().is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        if self.files.reproducible.is_some() {
            let again = Resource::new_borrow(fd.rep());
            if self.inner().stat(again).await?.link_count == 0 {
                return Ok(Sameness::nameless());
            }
        }
        let hash = self.inner().metadata_hash(fd).await?;
        Ok(self.files.numbered(hash))
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let hash = self.inner().metadata_hash_at(fd, path_flags, path).await?;
        Ok(self.files.numbered(hash))
    }
}

impl HostDirectoryEntryStream for FilesystemView<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.next_entry(&stream)
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.forget_listing(&stream)
    }
}
