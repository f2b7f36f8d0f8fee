//! One run of a guest.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::kit::{Kernel, Kit, at};

/// Lines of the console that are told when a guest fails.
const TOLD: usize = 40;

/// A guest that is about to start: no KVM, no network, memory that a device behind vfio-user can reach.
pub(super) struct Guest {
    command: Command,
    console: PathBuf,
}

impl Guest {
    pub(super) fn new(kit: &Kit, kernel: &Kernel, initramfs: PathBuf) -> Self {
        let console = initramfs.with_file_name("console");
        let mut command = kit.qemu();
        command.args(["-M", "q35,kernel-irqchip=off,memory-backend=mem", "-accel", "tcg", "-cpu", "max", "-m", "512"]);
        command.args(["-object", "memory-backend-memfd,id=mem,size=512M,share=on"]);
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
        command.args(["-append", "console=ttyS0 panic=-1"]);
        Self { command, console }
    }

    /// With the PCI device that a server offers at `socket`. The server listens already.
    pub(super) fn device(mut self, socket: &Path) -> Self {
        let driver =
            format!(r#"{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{}"}}}}"#, socket.display());
        self.command.args(["-device", &driver]);
        self
    }

    /// Runs the guest until it turns itself off, and no longer than `limit`. Each line that its script prints is given to
    /// `hear`; what that returns is a line that the script can read.
    pub(super) fn run(mut self, limit: Duration, mut hear: impl FnMut(&str) -> Option<String>) -> Result<(), String> {
        let end = Instant::now() + limit;
        let command = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("QEMU: {error}"))?;
        let heard = lines(&mut child);
        let result = loop {
            match heard.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let Some(reply) = hear(&line) else { continue };
                    let written = child.stdin.as_mut().map(|stdin| writeln!(stdin, "{reply}"));
                    if let Some(Err(error)) = written {
                        break Err(format!("the guest listens no more: {error}"));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    break Err(format!("the guest did not end within {} s", limit.as_secs()));
                }
            }
        };
        if result.is_err() {
            // It may have ended by itself.
            let _ = child.kill();
        }
        let output = child.wait_with_output().map_err(|error| format!("QEMU: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match result {
            Ok(()) if output.status.success() => Ok(()),
            Ok(()) => Err(format!("QEMU: {}: {}", output.status, said.trim())),
            Err(why) => Err(format!("{why}\n{}{}", said.trim(), self.last_of_console()?)),
        }
    }

    fn last_of_console(&self) -> Result<String, String> {
        let console = std::fs::read(&self.console).map_err(|error| at(&self.console, &error))?;
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        Ok(lines[lines.len().saturating_sub(TOLD)..].join("\n"))
    }
}

/// The lines of a child's output, until it ends.
fn lines(child: &mut Child) -> mpsc::Receiver<String> {
    let (tell, heard) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if tell.send(text).is_err() {
                    return;
                }
                line.clear();
            }
        });
    }
    heard
}
