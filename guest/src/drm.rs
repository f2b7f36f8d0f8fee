//! The calls of DRM that this takes. Numbers and structures are those of the kernel's interface, `nouveau_drm.h`.

use std::fs::{File, OpenOptions};
use std::mem::size_of;
use std::ptr;

use rustix::ioctl::{self, Opcode, Updater, opcode};
use rustix::mm::{self, MapFlags, ProtFlags};

const NODE: &str = "/dev/dri/renderD128";
/// `DRM_COMMAND_BASE`, from which nouveau counts its calls.
const BASE: u8 = 0x40;
const GEM_NEW: Opcode = opcode::read_write::<GemNew>(b'd', BASE + 0x40);
const VM_INIT: Opcode = opcode::read_write::<VmInit>(b'd', BASE + 0x10);
const VM_BIND: Opcode = opcode::read_write::<VmBind>(b'd', BASE + 0x11);
/// `NOUVEAU_GEM_DOMAIN_VRAM` and `_MAPPABLE`.
const DOMAIN: u32 = 1 << 1 | 1 << 3;
/// Buffers are aligned to this.
const ALIGN: u32 = 0x1000;

/// `DRM_NOUVEAU_VM_BIND_OP_MAP`, `_UNMAP`, each with and without `DRM_NOUVEAU_VM_BIND_SPARSE`: operation and flags.
pub(crate) const MAP: (u32, u32) = (0, 0);
pub(crate) const UNMAP: (u32, u32) = (1, 0);
pub(crate) const SPARSE: (u32, u32) = (0, 1 << 8);
pub(crate) const UNSPARSE: (u32, u32) = (1, 1 << 8);

/// `drm_nouveau_gem_new`.
#[repr(C)]
#[derive(Default)]
struct GemNew {
    handle: u32,
    domain: u32,
    size: u64,
    offset: u64,
    map_handle: u64,
    tile_mode: u32,
    tile_flags: u32,
    channel_hint: u32,
    align: u32,
}

/// `drm_nouveau_vm_init`.
#[repr(C)]
struct VmInit {
    kernel_managed_addr: u64,
    kernel_managed_size: u64,
}

/// `drm_nouveau_vm_bind`, without anything to wait for or to signal: the call is over when the mapping is made.
#[repr(C)]
struct VmBind {
    op_count: u32,
    flags: u32,
    wait_count: u32,
    sig_count: u32,
    wait_ptr: u64,
    sig_ptr: u64,
    op_ptr: u64,
}

/// `drm_nouveau_vm_bind_op`.
#[repr(C)]
struct VmBindOp {
    op: u32,
    flags: u32,
    handle: u32,
    pad: u32,
    addr: u64,
    bo_offset: u64,
    range: u64,
}

const _: () = assert!(size_of::<GemNew>() == 48 && size_of::<VmBind>() == 40 && size_of::<VmBindOp>() == 40);

/// An open node: a client of the driver.
pub(crate) struct Client {
    node: File,
}

/// A buffer of a client.
pub(crate) struct Buffer {
    pub(crate) handle: u32,
    pub(crate) bytes: u64,
    map: u64,
}

/// What VM_BIND is asked for.
pub(crate) struct Op {
    pub(crate) op: (u32, u32),
    pub(crate) buffer: u32,
    pub(crate) offset: u64,
    pub(crate) addr: u64,
    pub(crate) bytes: u64,
}

impl Client {
    pub(crate) fn open() -> Result<Self, String> {
        let node = OpenOptions::new().read(true).write(true).open(NODE);
        Ok(Self { node: node.map_err(|error| format!("{NODE}: {error}"))? })
    }

    pub(crate) fn init(&self, addr: u64, bytes: u64) -> Result<(), String> {
        self.call::<VM_INIT, _>(&mut VmInit { kernel_managed_addr: addr, kernel_managed_size: bytes }, "VM_INIT")
    }

    pub(crate) fn buffer(&self, bytes: u64) -> Result<Buffer, String> {
        let mut new = GemNew { domain: DOMAIN, size: bytes, align: ALIGN, ..GemNew::default() };
        self.call::<GEM_NEW, _>(&mut new, "GEM_NEW")?;
        Ok(Buffer { handle: new.handle, bytes: new.size, map: new.map_handle })
    }

    pub(crate) fn bind(&self, op: &Op) -> Result<(), String> {
        let (number, flags) = op.op;
        let (addr, bo_offset, range) = (op.addr, op.offset, op.bytes);
        let mut op = VmBindOp { op: number, flags, handle: op.buffer, pad: 0, addr, bo_offset, range };
        let op_ptr = ptr::from_mut(&mut op) as u64;
        let (flags, wait_count, sig_count) = (0, 0, 0);
        let mut bind = VmBind { op_count: 1, flags, wait_count, sig_count, wait_ptr: 0, sig_ptr: 0, op_ptr };
        self.call::<VM_BIND, _>(&mut bind, "VM_BIND")
    }

    /// Writes and reads a word at each `stride` bytes of a buffer. How many, and how many of them came back otherwise.
    pub(crate) fn fill(&self, buffer: &Buffer, value: u64, stride: u64) -> Result<(u64, u64), String> {
        if stride == 0 || !stride.is_multiple_of(8) {
            return Err(format!("a stride of {stride} is no multiple of 8"));
        }
        let length = usize::try_from(buffer.bytes).map_err(|error| error.to_string())?;
        let (may, shared) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice; nothing else is there.
        let mapped = unsafe { mm::mmap(ptr::null_mut(), length, may, shared, &self.node, buffer.map) };
        let mapped = mapped.map_err(|error| format!("mmap: {error}"))?;
        let offsets = || (0..buffer.bytes).step_by(stride as usize);
        let word = |offset: u64| mapped.cast::<u8>().wrapping_add(offset as usize).cast::<u64>();
        for offset in offsets() {
            // SAFETY: within the mapping, whose length is a multiple of a page, and aligned to 8 like it.
            unsafe { word(offset).write_volatile(value.wrapping_add(offset)) };
        }
        // SAFETY: as above.
        let found = |offset| unsafe { word(offset).read_volatile() };
        let wrong = offsets().filter(|&offset| found(offset) != value.wrapping_add(offset)).count();
        // SAFETY: what was mapped above, to which no pointer is used any more.
        unsafe { mm::munmap(mapped, length) }.map_err(|error| format!("munmap: {error}"))?;
        Ok((offsets().count() as u64, wrong as u64))
    }

    fn call<const CALL: Opcode, T>(&self, argument: &mut T, name: &str) -> Result<(), String> {
        // SAFETY: each call above names the number with its structure, which has the kernel's layout; the pointer in one of
        // them is to what lives until the call is over.
        let called = unsafe { ioctl::ioctl(&self.node, Updater::<CALL, T>::new(argument)) };
        called.map_err(|error| format!("{name}: {error}"))
    }
}
