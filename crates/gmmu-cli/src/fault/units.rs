//! The units of a GPU that make accesses, in plain words.

use super::Fault;

/// What kind of unit made the access. It decides whose mistake a fault most likely is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs a program's shaders and kernels.
    Shader,
    /// Reads vertices and draws.
    Graphics,
    /// Copies memory.
    Copy,
    /// Fetches commands and semaphores of a channel.
    Commands,
    /// Saves, restores and schedules contexts: firmware and fixed function.
    Context,
    /// Encodes and decodes video and pictures.
    Video,
    /// Reads frames for a screen.
    Display,
    /// Carries accesses of the CPU through a BAR.
    Cpu,
    /// Firmware of the card itself.
    Firmware,
    /// Measures performance.
    Profiling,
    /// Not known.
    Unknown,
}

/// Units of a graphics cluster, by the beginning of their names.
const CLUSTER: &[(&str, Role, &str)] = &[
    ("TPCCS", Role::Context, "the context switch unit of a texture processing cluster"),
    ("T1", Role::Shader, "the L1 and texture unit of a multiprocessor, so a load or store of a kernel or shader"),
    ("GPCCS", Role::Context, "the context switch firmware of the graphics cluster"),
    ("GCC", Role::Shader, "the cache for instructions and constants: a kernel's code, or its constant memory"),
    ("PE", Role::Graphics, "a primitive engine: it fetches vertices and writes tessellation and geometry data"),
    ("PROP", Role::Graphics, "the unit that puts pixels in order, behind the shaders"),
    ("RAST", Role::Graphics, "the rasteriser"),
    ("ROP", Role::Graphics, "the unit that writes colour and depth to render targets"),
    ("GPM", Role::Context, "the power and clock manager of the graphics cluster"),
    ("LTP_UTLB", Role::Shader, "the TLB that the multiprocessors of a cluster share"),
    ("RGG_UTLB", Role::Graphics, "the TLB that the rasteriser and geometry units share"),
];

/// Units behind the hub, by the beginning of their names; longer names stand before their own beginnings.
const HUB: &[(&str, Role, &str)] = &[
    ("HSCE", Role::Copy, "a copy engine"),
    ("CE_SHIM", Role::Copy, "the front of the copy engines"),
    ("CE", Role::Copy, "a copy engine"),
    ("GRCOPY", Role::Copy, "the copy engine of the graphics engine"),
    ("HOST_CPU", Role::Cpu, "an access of the CPU through a BAR of the card"),
    ("HOST", Role::Commands, "the unit that fetches a channel's commands and its semaphores"),
    ("ESC", Role::Commands, "the unit that schedules channels"),
    ("FECS", Role::Context, "the front end's context switch firmware: it saves and restores channels"),
    ("FE", Role::Commands, "the front end: it reads commands' semaphores, notifiers and launch data"),
    ("SKED", Role::Commands, "the compute scheduler: it reads the descriptors of kernel launches"),
    ("SCC", Role::Graphics, "the cache for shader constants and state"),
    ("SSYNC", Role::Graphics, "the unit that keeps shaders in step"),
    ("PD", Role::Graphics, "the primitive distributor: it fetches index buffers"),
    ("RASTERTWOD", Role::Graphics, "the 2D engine"),
    ("P2P", Role::Copy, "accesses of another GPU"),
    ("HSHUB", Role::Copy, "the high-speed hub, for NVLink and copies"),
    ("NVDEC", Role::Video, "a video decoder"),
    ("NVENC", Role::Video, "a video encoder"),
    ("NVJPG", Role::Video, "a JPEG engine"),
    ("OFA", Role::Video, "the optical flow engine"),
    ("VIP", Role::Video, "a video port"),
    ("VPR_SCRUBBER", Role::Firmware, "the unit that clears protected video memory"),
    ("DISPNISO", Role::Display, "the display, reading its commands"),
    ("DNISO", Role::Display, "the display, reading its commands"),
    ("NISO", Role::Display, "the display, reading its commands"),
    ("ISO", Role::Display, "the display, reading a frame"),
    ("DWBIF", Role::Display, "the display, writing a frame back"),
    ("DONT_CARE", Role::Unknown, "a unit without a number of its own"),
    ("FBFALCON", Role::Firmware, "firmware of the memory controller"),
    ("DFALCON", Role::Firmware, "a firmware processor"),
    ("AFALCON", Role::Firmware, "a firmware processor"),
    ("GSP", Role::Firmware, "the GPU system processor, which runs most of NVIDIA's driver"),
    ("SEC", Role::Firmware, "the security processor"),
    ("FSP", Role::Firmware, "the boot and security processor"),
    ("PMU", Role::Firmware, "the power management processor"),
    ("ACTRS", Role::Firmware, "the access counters"),
    ("MMU", Role::Firmware, "the MMU itself"),
    ("XV", Role::Firmware, "the PCI Express interface"),
    ("PTP_X", Role::Firmware, "the timer unit"),
    ("PERF", Role::Profiling, "the performance counters, writing what they measured"),
];

/// Engines, by the beginning of their names; nouveau's are lower case.
const ENGINES: &[(&str, Role, &str)] = &[
    ("GRAPHICS", Role::Unknown, "the graphics and compute engine"),
    ("GRCOPY", Role::Copy, "the copy engine of the graphics engine"),
    ("GR", Role::Unknown, "the graphics and compute engine"),
    ("PGRAPH", Role::Unknown, "the graphics and compute engine"),
    ("CE", Role::Copy, "a copy engine"),
    ("BAR1", Role::Cpu, "BAR1: the CPU's window into video memory"),
    ("BAR2", Role::Cpu, "BAR2: the kernel driver's window into video memory"),
    ("IFB", Role::Cpu, "the CPU's path into video memory"),
    ("NVDEC", Role::Video, "a video decoder"),
    ("NVENC", Role::Video, "a video encoder"),
    ("NVJPG", Role::Video, "a JPEG engine"),
    ("OFA", Role::Video, "the optical flow engine"),
    ("DISPLAY", Role::Display, "the display"),
    ("PHYSICAL", Role::Unknown, "an access with a physical address"),
    ("HOST", Role::Commands, "the unit that fetches commands"),
    ("PERF", Role::Profiling, "the performance counters"),
    ("FLA", Role::Copy, "accesses of other GPUs through the fabric"),
    ("PTP", Role::Firmware, "the timer unit"),
    ("GSP", Role::Firmware, "the GPU system processor"),
    ("SEC", Role::Firmware, "the security processor"),
    ("FSP", Role::Firmware, "the boot and security processor"),
    ("PWR_PMU", Role::Firmware, "the power management processor"),
];

fn find(table: &'static [(&str, Role, &str)], name: &str) -> Option<(Role, &'static str)> {
    let found = table.iter().find(|(start, ..)| {
        name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
            && name.get(start.len()..).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()))
    });
    found.map(|&(_, role, words)| (role, words))
}

/// The unit that made the access, in plain words.
#[must_use]
pub fn client(name: &str) -> Option<(Role, &'static str)> {
    if let Some(name) = name.strip_prefix("GPCCLIENT_") {
        return find(CLUSTER, name);
    }
    find(HUB, name.strip_prefix("HUBCLIENT_").unwrap_or(name))
}

/// The engine that the work belonged to, in plain words.
#[must_use]
pub fn engine(name: &str) -> Option<(Role, &'static str)> {
    find(ENGINES, name)
}

/// The role of whoever made the access: by the unit, or by the engine where the line does not name it.
#[must_use]
pub fn role(fault: &Fault) -> Role {
    let engine = fault.engine.as_deref().and_then(engine).map(|(role, _)| role);
    if engine == Some(Role::Cpu) {
        return Role::Cpu;
    }
    let client = fault.client.as_deref().and_then(client).map(|(role, _)| role);
    client.or(engine).unwrap_or(Role::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_names_win() {
        assert_eq!(client("GPCCLIENT_T1_13").map(|(role, _)| role), Some(Role::Shader));
        assert_eq!(client("GPCCLIENT_TPCCS_0").map(|(role, _)| role), Some(Role::Context));
        assert_eq!(client("HUBCLIENT_FECS0").map(|(role, _)| role), Some(Role::Context));
        assert_eq!(client("HUBCLIENT_FE").map(|(role, _)| role), Some(Role::Commands));
        assert_eq!(client("HUBCLIENT_HOST_CPU_NB").map(|(role, _)| role), Some(Role::Cpu));
        assert_eq!(client("HUBCLIENT_PERF0").map(|(role, _)| role), Some(Role::Profiling));
        assert_eq!(client("GPCCLIENT_PE_4").map(|(role, _)| role), Some(Role::Graphics));
        assert_eq!(client("UNRECOGNIZED_CLIENT"), None);
        assert_eq!(engine("gr").map(|(_, words)| words), Some("the graphics and compute engine"));
        assert_eq!(engine("ce2").map(|(role, _)| role), Some(Role::Copy));
    }

    /// Every unit that the hardware's own lists name (Turing to Blackwell) has words.
    #[test]
    fn all_units_of_the_manuals_are_known() {
        for (prefix, names) in [
            ("GPCCLIENT_", "T1_0 PE_0 RAST GCC GPCCS PROP_0 TPCCS_0 ROP_0 GPM LTP_UTLB_0 RGG_UTLB"),
            (
                "HUBCLIENT_",
                "VIP CE0 DNISO DISPNISO FE FECS HOST HOST_CPU HOST_CPU_NB ISO MMU NVDEC0 NVENC1 NISO ACTRS P2P PD \
                 PERF0 PMU RASTERTWOD SCC SCC_NB SEC SSYNC GRCOPY XV MMU_NB DFALCON SKED0 AFALCON DONT_CARE HSCE0 \
                 HSHUB PTP_X0 VPR_SCRUBBER0 DWBIF FBFALCON CE_SHIM GSP NVJPG0 OFA0 ESC FSP",
            ),
        ] {
            for name in names.split_whitespace() {
                assert!(client(&format!("{prefix}{name}")).is_some(), "{prefix}{name}");
            }
        }
        for name in "GRAPHICS DISPLAY GSP IFB FLA BAR1 BAR2 SEC FSP PERF0 NVDEC1 NVJPG0 GRCOPY CE9 PWR_PMU PTP NVENC0 \
                     OFA0 PHYSICAL HOST44"
            .split_whitespace()
        {
            assert!(engine(name).is_some(), "{name}");
        }
    }
}
