//! Stages in a guest: QEMU without KVM, a Debian kernel, and the software GPU or nothing on its bus.
//!
//! Nothing is installed on the host. Where QEMU and a kernel cannot be had, a stage says why and counts as skipped.

mod guest;
mod initramfs;
mod kit;
mod modules;
mod nouveau;
mod space;
mod sysfs;

use std::time::Duration;

use crate::checks::Checks;
use guest::Guest;
use initramfs::Initramfs;
use kit::{Flavour, Kit};

/// Runs the stage of that name; `None` where there is none.
pub(crate) fn run(stage: &str) -> Option<Result<(), String>> {
    let stage: fn(&Kit) -> Result<(), String> = match stage {
        "boot" => boot,
        "nouveau" => nouveau::nouveau,
        "sysfs" => sysfs::sysfs,
        _ => return None,
    };
    Some(match Kit::get() {
        Ok(kit) => stage(&kit),
        Err(why) => {
            println!("skipped: {}", why.trim().replace('\n', "; "));
            println!("0 passed, 0 failed, 1 skipped");
            Ok(())
        }
    })
}

/// Starts a guest that says what is on its bus.
fn boot(kit: &Kit) -> Result<(), String> {
    let kernel = kit.kernel(Flavour::Cloud)?;
    let mut image = Initramfs::new(kit)?;
    image
        .script("cat /proc/version\nfor d in /sys/bus/pci/devices/*; do echo pci $(cat $d/vendor $d/device); done\n")?;
    let mut said = Vec::new();
    let guest = Guest::new(kit, &kernel, image.pack()?);
    guest.run(Duration::from_secs(120), |line| {
        said.push(line.to_owned());
        None
    })?;
    let mut checks = Checks::default();
    checks.check("the kernel is Debian's", said.iter().any(|line| line.contains("Debian")));
    checks.check("its bus has a host bridge", said.iter().any(|line| line == "pci 0x8086 0x29c0"));
    checks.end()
}

/// A number as it is written between programs: hex with `0x`, or decimal.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text:?}: {error}"))
}
