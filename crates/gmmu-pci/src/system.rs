//! What holds for all cards of a machine: who asks, how far the kernel is locked down, whether this is a container.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use crate::read::{self, PAGE};

/// `/proc/self/status` has a line of groups, which can be long.
const STATUS_MAX: u64 = 64 << 10;
/// `/proc/self/mountinfo` has a line per mount.
const MOUNTS_MAX: u64 = 4 << 20;

/// How far the kernel is locked down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Not at all.
    None,
    /// Nobody changes the kernel: no BARs through sysfs, no `/dev/mem`.
    Integrity,
    /// Nobody reads its secrets either.
    Confidentiality,
}

impl Lockdown {
    /// The kernel's word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        }
    }
}

/// Who asks, after `/proc/self/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The effective user.
    pub uid: Option<u32>,
    groups: Vec<u32>,
    capabilities: u64,
    /// The ids and capabilities count in a user namespace only.
    pub namespaced: bool,
}

/// Whether a file can be opened for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By its permissions, yes.
    Granted,
    /// By its permissions, no.
    Denied,
    /// There is no such file.
    Missing,
}

impl User {
    const DAC_OVERRIDE: u32 = 1;
    const SYS_RAWIO: u32 = 17;

    fn read(proc: &Path) -> Self {
        let text = |file| read::text(&proc.join(file), STATUS_MAX).ok().flatten();
        let status = text("self/status").unwrap_or_default();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        // Real, effective, saved, file system.
        let effective = |name| line(name).split_ascii_whitespace().nth(1).and_then(|id| id.parse::<u32>().ok());
        let groups = line("Groups:").split_ascii_whitespace().filter_map(|group| group.parse().ok());
        let map = text("self/uid_map").unwrap_or_default();
        Self {
            uid: effective("Uid:"),
            groups: groups.chain(effective("Gid:")).collect(),
            capabilities: u64::from_str_radix(line("CapEff:").trim(), 16).unwrap_or_default(),
            namespaced: !map.is_empty() && map.split_ascii_whitespace().ne(["0", "0", "4294967295"]),
        }
    }

    fn can(&self, capability: u32) -> bool {
        !self.namespaced && self.capabilities >> capability & 1 == 1
    }

    /// Whether `CAP_SYS_RAWIO` is there, without which `/dev/mem` does not open.
    #[must_use]
    pub fn raw_io(&self) -> bool {
        self.can(Self::SYS_RAWIO)
    }

    /// Whether the user may open `path` for reading and writing. It is not opened.
    #[must_use]
    pub fn access(&self, path: &Path) -> Access {
        let there = match fs::metadata(path) {
            Ok(there) => there,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Access::Denied,
            Err(_) => return Access::Missing,
        };
        let (owner, group, mode) = owner(&there);
        let bits = match self.uid {
            _ if self.can(Self::DAC_OVERRIDE) => 6,
            Some(uid) if uid == owner => mode >> 6,
            _ if self.groups.contains(&group) => mode >> 3,
            _ => mode,
        };
        if bits & 6 == 6 { Access::Granted } else { Access::Denied }
    }
}

#[cfg(unix)]
fn owner(there: &Metadata) -> (u32, u32, u32) {
    use std::os::unix::fs::MetadataExt;
    (there.uid(), there.gid(), there.mode())
}

/// Cards are read on Linux; elsewhere only copies of its files can be, which have no owner.
#[cfg(not(unix))]
fn owner(_: &Metadata) -> (u32, u32, u32) {
    (0, 0, 0o600)
}

/// A machine, as far as it decides over access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    sys: PathBuf,
    root: PathBuf,
    /// Who asks.
    pub user: User,
    /// How far the kernel is locked down; none where that cannot be read.
    pub lockdown: Option<Lockdown>,
    /// The kind of container that this seems to be.
    pub container: Option<String>,
    /// Sysfs can only be read: its BAR files do not open for writing.
    pub read_only: bool,
}

impl System {
    /// Looks at the machine whose sysfs is at `sys`, with `proc`, `dev` and `run` beside it.
    #[must_use]
    pub fn read(sys: &Path) -> Self {
        // Lexically, so that messages say `/dev/mem`; where the name says nothing, the file system knows.
        let root = match (sys.file_name(), sys.parent()) {
            (Some(_), Some(root)) => root.to_owned(),
            _ => sys.join(".."),
        };
        Self {
            user: User::read(&root.join("proc")),
            lockdown: lockdown(sys),
            container: container(&root),
            read_only: read_only(&root),
            sys: sys.to_owned(),
            root,
        }
    }

    /// Whether the user may open a file of sysfs.
    pub(crate) fn access_sys(&self, file: &str) -> Access {
        self.user.access(&self.sys.join(file))
    }

    /// Whether the user may open a device node.
    pub(crate) fn access_dev(&self, node: &str) -> Access {
        self.user.access(&self.root.join("dev").join(node))
    }
}

fn lockdown(sys: &Path) -> Option<Lockdown> {
    let folder = sys.join("kernel/security");
    match read::text(&folder.join("lockdown"), PAGE) {
        Ok(Some(text)) => {
            let chosen = text.split_once('[')?.1.split_once(']')?.0;
            [Lockdown::None, Lockdown::Integrity, Lockdown::Confidentiality].into_iter().find(|is| is.word() == chosen)
        }
        // Other security modules are there, and this one is not.
        Ok(None) if read::names(&folder, 1).is_ok_and(|(names, _)| !names.is_empty()) => Some(Lockdown::None),
        _ => None,
    }
}

fn container(root: &Path) -> Option<String> {
    let is_there = |file: &str| fs::symlink_metadata(root.join(file)).is_ok();
    if is_there(".dockerenv") {
        return Some("docker".to_owned());
    }
    if is_there("run/.containerenv") {
        return Some("podman".to_owned());
    }
    let named = read::text(&root.join("run/systemd/container"), PAGE).ok().flatten();
    if let Some(name) = named.filter(|name| read::is_word(name)) {
        return Some(name);
    }
    let groups = read::text(&root.join("proc/1/cgroup"), STATUS_MAX).ok().flatten()?;
    ["kubepods", "docker", "containerd", "lxc"].into_iter().find(|name| groups.contains(name)).map(str::to_owned)
}

/// Whether the last mount on `/sys` is a read-only one.
fn read_only(root: &Path) -> bool {
    let mounts = read::text(&root.join("proc/self/mountinfo"), MOUNTS_MAX).ok().flatten().unwrap_or_default();
    let options = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        let (place, options) = (fields.next()?, fields.next()?);
        (place == "/sys").then(|| options.split(',').any(|option| option == "ro"))
    };
    mounts.lines().filter_map(options).next_back().unwrap_or(false)
}
