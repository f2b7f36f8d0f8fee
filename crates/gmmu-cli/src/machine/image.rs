//! The model's video memory as a file.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use gmmu_sim::Gpu;

use crate::exit::Failure;
use crate::files::{unwritable, write_whole};

/// Writes all of video memory to `path`, as a raw image with holes where nothing was written.
///
/// # Errors
/// A failure that names the file; exit code 2 where the GPU has no video memory.
pub fn write_vram(gpu: &Gpu, path: &Path) -> Result<(), Failure> {
    if gpu.vram_bytes() == 0 {
        return Err(Failure::usage(format_args!(
            "{} has no video memory to write to {}",
            gpu.chip().name,
            path.display()
        ))
        .hint("--snapshot FILE keeps the page tables"));
    }
    write_whole(path, |file| {
        let mut fill = || -> std::io::Result<()> {
            for (at, bytes) in gpu.vram_pages() {
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&bytes)?;
            }
            file.flush()?;
            file.get_ref().set_len(gpu.vram_bytes())
        };
        fill().map_err(|error| unwritable(path, &error))
    })
}
