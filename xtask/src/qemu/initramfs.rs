//! The file system that a guest starts with: busybox, what a stage puts in, and the script that it runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kit::{Kit, at};

/// Mounts what programs expect, runs the stage's script, and turns the machine off. The second serial port is the stage's:
/// what the kernel says does not come between.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
stty -F /dev/ttyS1 raw -echo
export PATH=/bin HOME=/tmp
sh /stage </dev/ttyS1 >/dev/ttyS1 2>&1
poweroff -f
";

/// A folder that becomes one.
pub(super) struct Initramfs {
    busybox: PathBuf,
    folder: PathBuf,
}

impl Initramfs {
    /// With busybox, and nothing else.
    pub(super) fn new(kit: &Kit) -> Result<Self, String> {
        // One at a time: who has the kit has this, too.
        let folder = crate::root().join("target/qemu");
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| at(&folder, &error))?;
        }
        let image = Self { busybox: kit.busybox(), folder };
        image.file(&image.busybox, "bin/busybox")?;
        image.text(INIT, "init")?;
        Ok(image)
    }

    /// Copies a file of the host to `to`, for everybody to read and run.
    pub(super) fn file(&self, from: &Path, to: &str) -> Result<(), String> {
        let bytes = fs::read(from).map_err(|error| at(from, &error))?;
        self.bytes(&bytes, to)
    }

    /// What the guest runs: a shell script. Its output is what [`super::guest::Guest::run`] hears.
    pub(super) fn script(&mut self, script: &str) -> Result<(), String> {
        self.text(script, "stage")
    }

    fn text(&self, text: &str, to: &str) -> Result<(), String> {
        self.bytes(text.as_bytes(), to)
    }

    /// A file with these bytes.
    pub(super) fn bytes(&self, bytes: &[u8], to: &str) -> Result<(), String> {
        let path = self.folder.join("root").join(to);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| at(parent, &error))?;
        }
        fs::write(&path, bytes).map_err(|error| at(&path, &error))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|error| at(&path, &error))
    }

    /// The archive, as the kernel takes it.
    pub(super) fn pack(self) -> Result<PathBuf, String> {
        let root = self.folder.join("root");
        let packed = self.folder.join("initramfs");
        let file = fs::File::create(&packed).map_err(|error| at(&packed, &error))?;
        let pack = "\"$0\" find . | \"$0\" cpio -o -H newc";
        let mut command = Command::new(&self.busybox);
        let command = command.args(["sh", "-c", pack]).arg(&self.busybox).current_dir(&root);
        let status = command.stdout(file).stderr(Stdio::null()).status();
        let status = status.map_err(|error| at(&self.busybox, &error))?;
        if status.success() { Ok(packed) } else { Err(format!("{}: cpio: {status}", root.display())) }
    }
}
