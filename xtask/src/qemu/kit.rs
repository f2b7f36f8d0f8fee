//! QEMU and kernels from Debian's packages, in a folder of their own.
//!
//! `apt-get` works on lists and archives in that folder, with an empty list of what is installed, so that it fetches
//! whatever QEMU needs and touches nothing of the host's. The mirror is the one that the host's own apt is set up with;
//! names of kernels are found when they are needed, for they change with each update.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The suite with a QEMU that knows vfio-user, and with kernels 6.12.
const SUITE: &str = "trixie";
const BACKPORTS: &str = "trixie-backports";
/// What is needed of it beside its dependencies.
const FROM_BACKPORTS: [&str; 4] = ["qemu-system-x86", "qemu-system-data", "qemu-system-common", "seabios"];
const FROM_SUITE: [&str; 2] = ["ipxe-qemu", "busybox-static"];

/// Which of Debian's kernels.
#[derive(Clone, Copy)]
pub(super) enum Flavour {
    /// Small, for virtual machines: no drivers of graphics cards.
    Cloud,
    /// All drivers.
    Full,
}

impl Flavour {
    /// The package that depends on the newest of its kind.
    const fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Full => "linux-image-amd64",
        }
    }
}

/// A kernel and its modules, unpacked.
pub(super) struct Kernel {
    /// `vmlinuz`.
    pub(super) image: PathBuf,
    /// The folder of the modules, with `kernel` in it.
    pub(super) modules: PathBuf,
}

/// The folder, with QEMU in it.
pub(super) struct Kit {
    folder: PathBuf,
    /// Held as long as the kit is used: two at once would spoil each other's lists.
    _lock: File,
}

impl Kit {
    /// What there is, fetched where it is missing. The folder is in the user's cache: whoever wants newer packages
    /// deletes it.
    pub(super) fn get() -> Result<Self, String> {
        if !(cfg!(target_os = "linux") && cfg!(target_arch = "x86_64")) {
            return Err("QEMU's packages are fetched for Linux on x86_64 alone".to_owned());
        }
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
        let folder = cache.ok_or("neither XDG_CACHE_HOME nor HOME is set")?.join("gmmu/qemu");
        fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(|error| at(&path, &error))?;
        lock.lock().map_err(|error| at(&path, &error))?;
        let kit = Self { folder, _lock: lock };
        kit.unpacked("root", |kit, to| kit.fetch_qemu(to))?;
        Ok(kit)
    }

    /// QEMU, with its libraries and files. The host's own are older, or missing.
    pub(super) fn qemu(&self) -> Command {
        let root = self.folder.join("root");
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).arg(root.join("usr/bin/qemu-system-x86_64"));
        command.arg("-L").arg(root.join("usr/share/qemu")).arg("-L").arg(root.join("usr/share/seabios"));
        command
    }

    /// The program busybox, static: for guests, and for what the host may lack.
    pub(super) fn busybox(&self) -> PathBuf {
        self.folder.join("root/usr/bin/busybox")
    }

    /// A kernel, fetched where it is missing.
    pub(super) fn kernel(&self, flavour: Flavour) -> Result<Kernel, String> {
        let root = self.unpacked(flavour.package(), |kit, to| kit.fetch_kernel(flavour, to))?;
        let image = only(&root.join("boot"), "vmlinuz-")?;
        Ok(Kernel { image, modules: only(&root.join("usr/lib/modules"), "")? })
    }

    /// The folder `name`, made by `fetch` where it is not there: beside, and renamed when it is whole.
    fn unpacked(&self, name: &str, fetch: impl Fn(&Self, &Path) -> Result<(), String>) -> Result<PathBuf, String> {
        let whole = self.folder.join(name);
        if !whole.exists() {
            let part = self.folder.join(format!("{name}.part"));
            if part.exists() {
                fs::remove_dir_all(&part).map_err(|error| at(&part, &error))?;
            }
            fs::create_dir_all(&part).map_err(|error| at(&part, &error))?;
            fetch(self, &part)?;
            fs::rename(&part, &whole).map_err(|error| at(&whole, &error))?;
        }
        Ok(whole)
    }

    fn fetch_qemu(&self, to: &Path) -> Result<(), String> {
        self.update()?;
        let archives = self.folder.join("apt/archives");
        let newest = FROM_BACKPORTS.map(|package| format!("{package}/{BACKPORTS}"));
        let packages = newest.iter().map(String::as_str).chain(FROM_SUITE);
        let install = ["-yq", "--no-install-recommends", "--download-only", "install"];
        self.apt("apt-get", install.into_iter().chain(packages))?;
        unpack(&archives, to)?;
        fs::remove_dir_all(&archives).map_err(|error| at(&archives, &error))
    }

    fn fetch_kernel(&self, flavour: Flavour, to: &Path) -> Result<(), String> {
        self.update()?;
        let said = self.apt("apt-cache", ["depends", flavour.package()])?;
        let said = String::from_utf8_lossy(&said.stdout);
        let name = said.split_whitespace().find(|word| word.starts_with("linux-image-") && *word != flavour.package());
        let name = name.ok_or_else(|| format!("{} depends on no kernel", flavour.package()))?;
        let archives = to.join("archives");
        fs::create_dir_all(&archives).map_err(|error| at(&archives, &error))?;
        let mut download = self.apt_command("apt-get");
        run(download.args(["-q", "download", name]).current_dir(&archives))?;
        unpack(&archives, to)?;
        fs::remove_dir_all(&archives).map_err(|error| at(&archives, &error))
    }

    /// The lists of the suites, from the mirror of the host's apt.
    fn update(&self) -> Result<(), String> {
        let targets = ["indextargets", "--format", "$(LABEL) $(SITE)", "Created-By: Packages", "Component: main"];
        let said = run(Command::new("apt-get").args(targets))?;
        let said = String::from_utf8_lossy(&said.stdout);
        // The archive itself, and not the one of security updates beside it.
        let site = said.lines().find_map(|line| line.strip_prefix("Debian "));
        let site = site.ok_or("this machine's apt is set up with no archive of Debian")?;
        for folder in ["state/lists/partial", "apt/archives/partial"] {
            let folder = self.folder.join(folder);
            fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
        }
        let sources = format!("deb {site} {SUITE} main\ndeb {site} {BACKPORTS} main\n");
        for (name, text) in [("sources.list", sources.as_str()), ("status", "")] {
            let path = self.folder.join(name);
            fs::write(&path, text).map_err(|error| at(&path, &error))?;
        }
        self.apt("apt-get", ["-q", "update"]).map(drop)
    }

    fn apt<'a>(&self, program: &str, args: impl IntoIterator<Item = &'a str>) -> Result<Output, String> {
        run(self.apt_command(program).args(args))
    }

    /// A program of apt's that works in the folder, and takes nothing to be installed.
    fn apt_command(&self, program: &str) -> Command {
        let places = [
            ("Dir::State", "state"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "apt"),
            ("Dir::Etc::sourcelist", "sources.list"),
        ];
        let mut command = Command::new(program);
        for (option, place) in places {
            let mut value = OsString::from(format!("{option}="));
            value.push(self.folder.join(place));
            command.arg("-o").arg(value);
        }
        // Who fetches is who runs this: there is no need for another user to be able to write here.
        command.args(["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User="]);
        command
    }
}

/// Unpacks every package in a folder, without its scripts.
fn unpack(archives: &Path, to: &Path) -> Result<(), String> {
    for entry in fs::read_dir(archives).map_err(|error| at(archives, &error))?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(to))?;
        }
    }
    Ok(())
}

/// The one entry of a folder whose name begins so.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|error| at(folder, &error))?.flatten();
    let mut found = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry.path()),
        _ => Err(format!("{}: not one {prefix}* but none or several", folder.display())),
    }
}

/// Runs a program to its end; says what it said when it fails.
pub(super) fn run(command: &mut Command) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program}: {}: {}", output.status, said.trim()))
    }
}

/// An error that names its file.
pub(super) fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
