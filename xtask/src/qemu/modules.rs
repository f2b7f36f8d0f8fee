//! Kernel modules, and those that they need.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::initramfs::Initramfs;
use super::kit::{Kernel, Kit, at, run};

/// Puts the modules of that name and all that they need into the file system. The lines of a script that load them: each
/// behind those that it needs, `options` for the last.
pub(super) fn load(kit: &Kit, kernel: &Kernel, image: &Initramfs, name: &str, options: &str) -> Result<String, String> {
    let mut files = HashMap::new();
    collect(&kernel.modules.join("kernel"), &mut files)?;
    let mut order = Vec::new();
    visit(kit, image, &files, name, &mut order)?;
    let last = order.len().saturating_sub(1);
    let line =
        |(n, name): (usize, &String)| format!("insmod /modules/{name}.ko {}\n", if n == last { options } else { "" });
    Ok(order.iter().enumerate().map(line).collect())
}

/// Where each module is, by its name as others call it.
fn collect(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<(), String> {
    for entry in fs::read_dir(folder).map_err(|error| at(folder, &error))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some((name, "ko" | "ko.xz")) = entry.file_name().to_string_lossy().split_once('.') {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn visit(
    kit: &Kit,
    image: &Initramfs,
    files: &HashMap<String, PathBuf>,
    name: &str,
    order: &mut Vec<String>,
) -> Result<(), String> {
    let path = files.get(name).ok_or_else(|| format!("the kernel has no module {name}"))?;
    let module = run(Command::new(kit.busybox()).arg("unxz").arg("-c").arg(path))?.stdout;
    for needed in needs(&module) {
        if !order.contains(&needed) {
            visit(kit, image, files, &needed, order)?;
        }
    }
    image.bytes(&module, &format!("modules/{name}.ko"))?;
    order.push(name.to_owned());
    Ok(())
}

/// The modules that a module says it needs: the line `depends=a,b` of its section `.modinfo`, whose lines end with zeros.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let at = module.windows(KEY.len()).position(|bytes| bytes == KEY);
    let line = at.and_then(|at| module[at + KEY.len()..].split(|byte| *byte == 0).next());
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    line.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}
