//! The marker of a software GPU: a word of its configuration space that tells whoever watches it that now is the time.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

const DEVICES: &str = "/sys/bus/pci/devices";
/// PCI's configuration space: where the list of capabilities begins, and the number of a vendor's own.
const CAPABILITIES: usize = 0x34;
const VENDOR_SPECIFIC: u8 = 9;

/// Where marks are written.
pub(crate) struct Marker {
    config: File,
    at: u64,
    next: u32,
}

impl Marker {
    /// The marker of the first card that has one: a vendor's capability with the letters `gmmu`, and the word at byte 12.
    pub(crate) fn find() -> Result<Self, String> {
        for device in fs::read_dir(DEVICES).map_err(|error| format!("{DEVICES}: {error}"))?.flatten() {
            let path = device.path().join("config");
            let (Ok(config), Ok(bytes)) = (OpenOptions::new().write(true).open(&path), fs::read(&path)) else {
                continue;
            };
            let mut at = bytes.get(CAPABILITIES).map_or(0, |at| usize::from(*at));
            // A list that goes in circles ends, too.
            for _ in 0..64 {
                let Some(capability) = bytes.get(at..at + 16).filter(|_| at != 0) else { break };
                if capability[0] == VENDOR_SPECIFIC && &capability[4..8] == b"gmmu" {
                    return Ok(Self { config, at: at as u64 + 12, next: 1 });
                }
                at = usize::from(capability[1]);
            }
        }
        Err(format!("no device in {DEVICES} has a marker"))
    }

    /// Writes the next number.
    pub(crate) fn mark(&mut self) -> Result<(), String> {
        self.config.write_all_at(&self.next.to_le_bytes(), self.at).map_err(|error| format!("the marker: {error}"))?;
        self.next += 1;
        Ok(())
    }
}
