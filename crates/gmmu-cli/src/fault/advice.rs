//! Whose fault a fault usually is, what its line cannot tell, and what to do next.

use schemars::JsonSchema;
use serde::Serialize;

use super::units::{Role, role};
use super::{Fault, Kind, Source};
use crate::notation::Address;

/// Where to look first. A likelihood, not a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Suspect {
    /// The program that used the GPU.
    Program,
    /// The kernel driver, or the driver's part in the program.
    Driver,
    /// The card, or what connects it.
    Hardware,
    /// The line does not say enough.
    Unclear,
}

/// Who is to blame most of the time.
#[must_use]
pub fn suspect(fault: &Fault) -> Suspect {
    if fault.access.is_some_and(|access| access.physical) {
        return match fault.kind {
            Some(Kind::Poisoned) => Suspect::Hardware,
            _ => Suspect::Driver,
        };
    }
    match (fault.kind, role(fault)) {
        (Some(Kind::Poisoned), _) => Suspect::Hardware,
        (Some(Kind::PdeSize | Kind::UnboundInstBlock | Kind::UnsupportedKind | Kind::CompressionFailure), _)
        | (Some(Kind::UnsupportedAperture | Kind::WorkCreation | Kind::RegionViolation | Kind::CcViolation), _) => {
            Suspect::Driver
        }
        (_, Role::Shader | Role::Graphics | Role::Copy | Role::Video) => Suspect::Program,
        (_, Role::Commands | Role::Context | Role::Cpu | Role::Display | Role::Firmware) => Suspect::Driver,
        (_, Role::Profiling) => Suspect::Driver,
        (None | Some(Kind::Unrecognized), Role::Unknown) => Suspect::Unclear,
        (Some(_), Role::Unknown) => Suspect::Program,
    }
}

/// The usual causes, the most frequent first.
#[must_use]
pub fn usually(fault: &Fault) -> Vec<String> {
    let mut causes: Vec<&str> = Vec::new();
    let physical = fault.access.is_some_and(|access| access.physical);
    if physical {
        causes.push("The driver or firmware used a bad physical address: no page table of a program is involved.");
    }
    match fault.kind {
        Some(Kind::Poisoned) => causes.push("Failing video memory: an ECC error. The program that met it is a victim."),
        Some(Kind::UnboundInstBlock) => causes.push(
            "The driver removed the channel, or never finished setting it up, while work was still queued on it.",
        ),
        Some(Kind::PdeSize | Kind::UnsupportedKind) => {
            causes.push("Page tables that hold garbage: a driver wrote them wrongly, or something wrote over them.");
        }
        Some(Kind::UnsupportedAperture) => causes.push(
            "A driver mapped memory in a way that this unit cannot use: peer memory without a link between the cards, \
             or system memory where only video memory will do.",
        ),
        Some(Kind::CompressionFailure) => {
            causes
                .push("A driver gave a compressed kind to memory that cannot be compressed, or moved it without care.");
        }
        Some(Kind::CcViolation | Kind::RegionViolation) => {
            causes.push("A driver mapped memory that is not a program's to see.");
        }
        Some(Kind::WorkCreation) => causes.push("The driver or its compiler: programs do not create work by address."),
        _ if physical => {}
        kind => causes.extend(by_role(kind, role(fault))),
    }
    if suspect(fault) == Suspect::Program {
        causes.push(
            "Rarely the driver, which unmapped too early, or the card. Suspect them when programs that are known to be \
             good fault too, and the card alone when they fault on this card only.",
        );
    }
    causes.into_iter().map(str::to_owned).collect()
}

fn by_role(kind: Option<Kind>, role: Role) -> Vec<&'static str> {
    let mut causes = Vec::new();
    match role {
        Role::Shader | Role::Unknown => {
            causes.push(
                "The program's own wild access: an index out of bounds, a null or unset pointer, memory used after it \
                 was freed. Most Xid 31s are this.",
            );
            match kind {
                Some(Kind::Pte) => causes.push(
                    "As the table is there, likely a short way past the end of an allocation, or within one that has \
                     been freed.",
                ),
                Some(Kind::Pde) => causes.push(
                    "As even the table is missing, rather far away from all memory that is mapped: garbage used as a \
                     pointer, a large index, or a large allocation that has been freed.",
                ),
                Some(Kind::PrivViolation) => {
                    causes.push("The access went astray and hit a buffer of the driver, which user code must not touch.");
                }
                Some(Kind::RoViolation) => causes.push(
                    "A store to memory that was mapped read-only on purpose: code, constants, or an allocation shared \
                     with read access only.",
                ),
                Some(Kind::AtomicViolation) => causes.push(
                    "A system-wide atomic on host memory of a machine whose bus cannot do atomics; ask \
                     cudaDevAttrHostNativeAtomicSupported.",
                ),
                _ => {}
            }
            causes.push("A host pointer (malloc, stack) given to a kernel, where the GPU has no access to such memory.");
        }
        Role::Graphics => {
            causes.push("A buffer or image was destroyed while drawing that uses it was still queued.");
            causes.push("An index or vertex buffer that is shorter than the draw call says, with robust access off.");
        }
        Role::Copy => {
            causes.push("A copy whose source or destination was freed before the copy ran: free comes after synchronise.");
            causes.push("A copy that is longer than its buffer, or was given a wrong pointer.");
        }
        Role::Video => causes.push("A surface was freed or resized while the video engine still used it."),
        Role::Commands => causes.push(
            "A command buffer, semaphore or launch descriptor was unmapped while the channel still used it: the driver, \
             or a program that frees memory which queued work refers to.",
        ),
        Role::Context => causes.push("The driver: context buffers are its own, and were missing when a channel was switched."),
        Role::Cpu => causes.push(
            "The kernel driver: the CPU touched video memory through a BAR after (or before) the driver had mapped it \
             there.",
        ),
        Role::Display => causes.push("The driver: the display was told to show a buffer that is not mapped."),
        Role::Firmware => causes.push("The driver or firmware: this unit works for them alone."),
        Role::Profiling => causes.push("The buffer of a profiler was freed while the counters still wrote into it."),
    }
    causes
}

/// What nobody can know from this line alone.
#[must_use]
pub fn cannot_tell(fault: &Fault) -> Vec<String> {
    let mut open = Vec::new();
    if fault.va.is_some() {
        open.push("The byte: fault addresses are cut to the 4 KiB page.".to_owned());
    }
    match fault.kind {
        Some(Kind::Pde) => {
            open.push("Which directory ended the walk: FAULT_PDE is the same for all of them.".to_owned())
        }
        None => open.push("The fault type: it is not in the line.".to_owned()),
        Some(_) => {}
    }
    match role(fault) {
        Role::Shader | Role::Unknown if suspect(fault) == Suspect::Program => {
            open.push("Which kernel, thread or source line it was.".to_owned());
        }
        _ => {}
    }
    if fault.pid.is_none() && fault.name.is_none() {
        open.push(match fault.channel {
            Some(_) => "Which process it was: there is only the channel number.".to_owned(),
            None => "Which process it was.".to_owned(),
        });
    }
    open
}

/// What to do, in order.
#[must_use]
pub fn next(fault: &Fault) -> Vec<String> {
    let mut steps = Vec::new();
    match suspect(fault) {
        Suspect::Program if fault.source == Source::Nouveau => graphics(&mut steps),
        Suspect::Program => program(fault, &mut steps),
        Suspect::Driver | Suspect::Unclear => {
            if let (Role::Commands | Role::Profiling, Some(name)) = (role(fault), &fault.name) {
                steps.push(format!(
                    "See whether it needs {name}, or happens with other programs too; with CUDA, rule out the program by \
                     `compute-sanitizer --tool memcheck`."
                ));
            }
            steps.push("Try another driver version; note the first one that fails.".to_owned());
        }
        Suspect::Hardware => {
            steps.push("Look at the error counts: `nvidia-smi -q -d ECC,ROW_REMAPPER`.".to_owned());
            steps.push("Reset the card or reboot, so that bad rows are remapped; then `dcgmi diag -r 3`.".to_owned());
            steps.push("If the count grows, have the card replaced.".to_owned());
        }
    }
    if suspect(fault) != Suspect::Hardware {
        let physical = fault.access.is_some_and(|access| access.physical);
        if let (Some(va), false) = (fault.va, physical) {
            steps.push(look_up(va));
        }
        steps.push(report_to(fault.source));
    }
    steps
}

/// The step for who has page tables, but did not name them.
#[must_use]
pub fn look_up(va: u64) -> String {
    format!(
        "With an image of the page tables: `gmmu walk {} --file IMAGE …` shows every level of this address, how large \
         the hole is, and its nearest neighbours.",
        Address(va)
    )
}

fn program(fault: &Fault, steps: &mut Vec<String>) {
    if role(fault) == Role::Graphics {
        graphics(steps);
        return;
    }
    steps.push(format!(
        "CUDA: run it under `compute-sanitizer --tool memcheck {}`. It names the kernel, the thread and, if built \
         with -lineinfo, the source line.",
        command(fault.name.as_deref())
    ));
    steps.push(
        "With CUDA_LAUNCH_BLOCKING=1 the launch that fails is the one that reports; with \
         CUDA_ENABLE_COREDUMP_ON_EXCEPTION=1 it leaves a core file for cuda-gdb."
            .to_owned(),
    );
    steps.push(
        "Print the addresses and sizes of your allocations, and see which one ends just below the address.".to_owned(),
    );
    steps.push("Vulkan, OpenGL: run with VK_LAYER_KHRONOS_validation, GPU-assisted.".to_owned());
}

/// How the program is started, as far as its name tells. The kernel knows 15 characters of it, and a script by its own
/// name where it has set it.
fn command(name: Option<&str>) -> String {
    match name {
        None => "PROGRAM".to_owned(),
        Some(script) if script.ends_with(".py") => format!("python3 {script} …"),
        Some(name) => format!("{name} …"),
    }
}

fn graphics(steps: &mut Vec<String>) {
    steps
        .push("Vulkan: run with VK_LAYER_KHRONOS_validation, GPU-assisted, and with robustBufferAccess on.".to_owned());
    steps.push(
        "OpenGL: make the context with robust buffer access, and take a trace (apitrace) that repeats it.".to_owned(),
    );
}

fn report_to(source: Source) -> String {
    match source {
        Source::Nvrm | Source::Packet => {
            "If the program is clean, report it with the output of nvidia-bug-report.sh.".to_owned()
        }
        Source::Nouveau => {
            "If it can be repeated, report it at gitlab.freedesktop.org/drm/nouveau with the whole kernel log."
                .to_owned()
        }
    }
}

/// What another Xid in the same log says about the faults.
#[must_use]
pub const fn other_xid(number: u32) -> Option<&'static str> {
    Some(match number {
        8 => "a channel that did not finish in time; after a fault, its consequence",
        13 => "an exception of the graphics engine; near an Xid 31 both have one cause, mostly the program",
        32 => "a corrupted stream of commands",
        38 => "a firmware failure",
        43 => "a channel that was stopped; after an Xid 31 its consequence",
        44 => "a context switch that failed; after an Xid 31 its consequence",
        45 => "a channel that was cleaned up; after an Xid 31 its consequence",
        48 => "an uncorrectable memory error: look at the hardware first",
        61 | 62 => "power management firmware that stopped",
        63 | 64 => "a bad memory row that was retired or remapped: look at the hardware",
        68 => "an exception of the video decoder",
        69 => "an exception of the graphics engine's class",
        74 => "an NVLink error: faults on peer memory may be its consequence",
        79 => "a card that fell off the bus: look at power, heat and the slot first",
        92 => "many corrected memory errors",
        94 => "a contained memory error: look at the hardware",
        95 => "an uncontained memory error: look at the hardware first",
        109 => "a context switch that took too long; after a fault, its consequence",
        119 | 120 => "a GPU system processor that stopped answering",
        _ => return None,
    })
}
