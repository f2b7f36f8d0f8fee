//! What a device, or the memory of its tables, may fail with.

use crate::addr::TableAddr;

/// Why the device, or the memory of its tables, did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A register read all-ones: the card is off the bus, asleep, or its BAR is unreachable.
    #[error("the device is gone: register {offset:#x} reads {value:#x}")]
    Gone {
        /// Byte offset of the register in BAR0.
        offset: u32,
        /// The word that was read.
        value: u32,
    },
    /// A register read one of the bus's error words (0xbadf….): the unit behind it does not answer.
    #[error("register {offset:#x} answers with the error word {value:#010x}: the unit behind it is not reachable")]
    Poison {
        /// Byte offset of the register in BAR0.
        offset: u32,
        /// The word that was read.
        value: u32,
    },
    /// A register offset outside BAR0, or not aligned to the access.
    #[error("{bytes}-byte access at BAR0 offset {offset:#x} is outside the BAR or not aligned")]
    BadOffset {
        /// Byte offset in BAR0.
        offset: u32,
        /// Width of the access in bytes.
        bytes: u32,
    },
    /// An offset outside the BAR1 aperture, or not aligned to the access.
    #[error("{bytes}-byte access at BAR1 offset {offset:#x} is outside the aperture, which ends at {end:#x}, or not aligned")]
    BadBar1Offset {
        /// Byte offset in BAR1.
        offset: u64,
        /// Width of the access in bytes.
        bytes: u32,
        /// Bytes of the aperture.
        end: u64,
    },
    /// A table address that this memory does not have.
    #[error("{bytes} bytes at {at} are outside the memory that can be reached, which ends at {end:#x}")]
    OutOfRange {
        /// First byte of the access.
        at: TableAddr,
        /// Length of the access.
        bytes: u64,
        /// First address that cannot be reached.
        end: u64,
    },
    /// A table address that is not a multiple of the access width.
    #[error("{at} is not aligned to {alignment} bytes")]
    Unaligned {
        /// The address.
        at: TableAddr,
        /// The alignment that the access needs.
        alignment: u64,
    },
    /// Tables in system memory were asked for where only video memory can be reached, or the other way round.
    #[error("{at} is in an aperture that this memory does not reach")]
    WrongAperture {
        /// The address.
        at: TableAddr,
    },
    /// This memory can be read only.
    #[error("{at} is read-only")]
    ReadOnly {
        /// The address.
        at: TableAddr,
    },
    /// The PRAMIN window did not go where it was sent: it reads back another position.
    #[error("the PRAMIN window was moved to {wanted:#x} but reads back {found:#x}: another user, or a lost write")]
    WindowLost {
        /// Base address that was written.
        wanted: u64,
        /// Base address that was read back.
        found: u64,
    },
    /// The device did not get ready in time.
    #[error("register {offset:#x} was not ready after {waited_us} µs and {polls} polls")]
    Timeout {
        /// Byte offset of the register in BAR0.
        offset: u32,
        /// Time waited, in microseconds.
        waited_us: u64,
        /// How often it was read.
        polls: u32,
    },
    /// The back end failed in a way of its own.
    #[error("back end: {0}")]
    Backend(&'static str),
}
