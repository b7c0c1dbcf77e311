//! The uploads that go on, and what projects hold.

use super::references::Lost;
use super::{Checker, Fault};
use crate::upload::UploadRow;
use crate::{BlobId, Error};

impl Checker<'_> {
    /// Whether everything is there that was acknowledged of each upload.
    pub(super) fn look_at_uploads(&mut self) -> Result<(), Error> {
        let Some(index) = &self.index else {
            return Ok(());
        };
        for id in self.job.handle.block_on(index.upload_ids())? {
            let Some(index) = &self.index else {
                return Ok(());
            };
            let Some(row) = self.job.handle.block_on(index.upload_row(id))? else {
                continue;
            };
            if let Some(detail) = self.look_at_upload(id, &row)? {
                self.findings.uploads.push(id);
                self.fault(Fault::BrokenUpload {
                    upload: id,
                    namespace: row.upload.namespace,
                    detail,
                })?;
            }
        }
        Ok(())
    }

    /// What is wrong with an upload, if something is.
    fn look_at_upload(&mut self, id: BlobId, row: &UploadRow) -> Result<Option<String>, Error> {
        let mut lost = Lost::default();
        let (mut bytes, mut chunks, mut from) = (0, 0, 0);
        loop {
            let Some(index) = &self.index else {
                return Ok(None);
            };
            if row.upload.complete {
                // The blob was looked at with the others.
                let blob = self.job.handle.block_on(index.blob(id))?;
                let missing = "it is complete, and its blob is not there".to_owned();
                return Ok(blob.is_none().then_some(missing));
            }
            let part = self.job.handle.block_on(index.part_from(id, from))?;
            let Some((first_byte, stored)) = part else {
                break;
            };
            from = first_byte + 1;
            let part = match stored.part {
                Ok(part) => part,
                Err(detail) => {
                    let detail = format!("its chunk list around byte {bytes}: {detail}");
                    return Ok(Some(detail));
                }
            };
            if part.blob != id || (part.first_byte, part.first_chunk) != (bytes, chunks) {
                break;
            }
            bytes += part.bytes();
            chunks += part.chunks.len() as u64;
            self.look_at_chunks(&part.chunks, &mut lost)?;
        }
        if (bytes, chunks) != (row.bytes, row.chunks) {
            return Ok(Some(format!(
                "its chunk list covers {bytes} of {} bytes",
                row.bytes
            )));
        }
        let detail = format!("{} of its chunks are lost", lost.count);
        Ok((lost.count > 0).then_some(detail))
    }

    /// Whether what projects hold is what their whole manifests name.
    pub(super) fn look_at_held(&mut self) -> Result<(), Error> {
        let Some(index) = &self.index else {
            return Ok(());
        };
        let mut held = self.job.handle.block_on(index.uses())?;
        let named = std::mem::take(&mut self.uses);
        let mut namespaces: Vec<&String> = named.keys().chain(held.keys()).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        let mut wrong = Vec::new();
        for namespace in namespaces {
            let expected = named.get(namespace).copied().unwrap_or_default();
            let found = held.get(namespace).copied().unwrap_or_default();
            if found != expected {
                wrong.push((namespace.clone(), expected, found));
            }
        }
        held.clear();
        for (namespace, expected, found) in wrong {
            self.findings.held = true;
            let detail =
                format!("it counts {found} places of chunks, and its blobs have {expected}");
            self.fault(Fault::WrongHeldRows { namespace, detail })?;
        }
        Ok(())
    }
}
