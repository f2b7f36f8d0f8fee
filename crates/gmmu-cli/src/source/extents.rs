//! Going through a whole image, holes left out.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use super::image::Image;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes that are read at once.
const CHUNK: u64 = 1 << 20;

impl Image {
    /// Shows `visit` every page that is not in a hole: its VRAM address, which is a multiple of 4 KiB, and its bytes,
    /// filled up with zeros where the image ends in the page. Gives how many bytes were read.
    ///
    /// # Errors
    /// Those of the file.
    pub fn for_each_page(&mut self, mut visit: impl FnMut(u64, &[u8])) -> io::Result<u64> {
        // The first position that is a page's.
        let first = self.base.wrapping_neg() % PAGE;
        let mut chunk = Vec::new();
        let (mut at, mut read) = (first, 0);
        while let Some(data) = data_from(&self.file, at, self.bytes)? {
            // The page in which the data begins may have begun in the hole.
            at = at.max(data.start.saturating_sub(first) / PAGE * PAGE + first);
            while at < data.end {
                let length = CHUNK.min((data.end - at).next_multiple_of(PAGE)).min(self.bytes - at);
                chunk.clear();
                self.file.seek(SeekFrom::Start(at))?;
                (&self.file).take(length).read_to_end(&mut chunk)?;
                chunk.resize(chunk.len().next_multiple_of(4096), 0);
                for (page, place) in chunk.chunks_exact(4096).zip((self.base + at..).step_by(4096)) {
                    visit(place, page);
                }
                read += length;
                at += length.next_multiple_of(PAGE);
            }
        }
        Ok(read)
    }
}

/// The first run of data at or behind `at`, in a file of `bytes` bytes.
#[cfg(target_os = "linux")]
fn data_from(file: &File, at: u64, bytes: u64) -> io::Result<Option<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    if at >= bytes {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => {
            let end = seek(file, SeekFrom::Hole(start)).unwrap_or(bytes);
            Ok(Some(start..end.clamp(start, bytes)).filter(|data| !data.is_empty()))
        }
        Err(Errno::NXIO) => Ok(None),
        // A block device, or a file system without holes.
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(Some(at..bytes)),
        Err(error) => Err(error.into()),
    }
}

/// All the rest is data where holes cannot be asked for.
#[cfg(not(target_os = "linux"))]
fn data_from(_: &File, at: u64, bytes: u64) -> io::Result<Option<Range<u64>>> {
    Ok(Some(at..bytes).filter(|data| !data.is_empty()))
}
