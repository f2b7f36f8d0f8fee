//! Messages of the vfio-user protocol, as far as a PCI device without migration needs them.
//!
//! A message is a header of 16 bytes (id, command, size of all, flags, error) and a body; numbers are little-endian.
//! Whatever a client says is looked at here, whole, before anything is done or allocated for it.

/// Bytes of a header.
pub(crate) const HEADER: usize = 16;
/// The most bytes that one access may move: what the server tells clients. A bus moves eight.
pub(crate) const TRANSFER_MAX: usize = 4096;
/// The most bytes behind a header.
pub(crate) const BODY_MAX: usize = TRANSFER_MAX + 64;

/// `EINVAL`: what every refused message is answered with.
pub(crate) const INVALID: u32 = 22;

const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// The version of the protocol that this is, 0.0, and the limits, as the client is told them. QEMU refuses newer ones.
const VERSION: [u8; 4] = [0; 4];
const CAPABILITIES: &str = r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":4096}}"#;

/// Indices of `VFIO_PCI_*_REGION_INDEX`, and how many there are. BAR1 takes the place of two, being of 64 bits, and so
/// the third of the card's BARs is called 3 on the bus.
pub(crate) const BAR0: u32 = 0;
pub(crate) const BAR1: u32 = 1;
pub(crate) const BAR2: u32 = 3;
pub(crate) const CONFIG: u32 = 7;
const REGIONS: u32 = 9;
/// `VFIO_PCI_MSI_IRQ_INDEX`, and how many kinds of interrupts there are.
pub(crate) const MSI: u32 = 1;
const INTERRUPTS: u32 = 5;

/// The first 16 bytes of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    id: u16,
    command: u16,
    size: u32,
    flags: u32,
}

impl Header {
    pub(crate) fn parse(bytes: [u8; HEADER]) -> Self {
        let mut body = Body(&bytes);
        let mut next = || body.u16().unwrap_or(0);
        let (id, command) = (next(), next());
        let mut next = || body.u32().unwrap_or(0);
        Self { id, command, size: next(), flags: next() }
    }

    /// Bytes of the whole message, as it says itself.
    pub(crate) const fn size(self) -> u32 {
        self.size
    }

    /// How many bytes follow; `None` where no message is that short or that long.
    pub(crate) fn body(self) -> Option<usize> {
        usize::try_from(self.size).ok()?.checked_sub(HEADER).filter(|bytes| *bytes <= BODY_MAX)
    }

    /// Whether the client waits for an answer.
    pub(crate) const fn wants_reply(self) -> bool {
        self.flags & NO_REPLY == 0
    }

    /// An answer, with its body.
    pub(crate) fn reply(self, body: &[u8]) -> Vec<u8> {
        self.answer(REPLY, 0, body)
    }

    /// The answer to what cannot be done.
    pub(crate) fn refusal(self) -> Vec<u8> {
        self.answer(REPLY | ERROR, INVALID, &[])
    }

    fn answer(self, flags: u32, error: u32, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(self.command.to_le_bytes());
        words(&mut bytes, &[size, flags, error]);
        bytes.extend(body);
        bytes
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Version,
    /// The guest's memory came, which this card never reaches for: its system memory is its own.
    DmaMap,
    DmaUnmap(&'a [u8]),
    DeviceInfo,
    RegionInfo(u32),
    InterruptInfo(u32),
    SetInterrupts {
        index: u32,
        start: u32,
        count: u32,
    },
    Read {
        region: u32,
        offset: u64,
        count: usize,
    },
    Write {
        region: u32,
        offset: u64,
        data: &'a [u8],
    },
    Reset,
}

impl<'a> Request<'a> {
    /// Reads a message; `None` where it is none that this server knows, or its lengths do not fit together.
    pub(crate) fn parse(header: Header, bytes: &'a [u8]) -> Option<Self> {
        let mut body = Body(bytes);
        let request = match header.command {
            // Two numbers, and perhaps capabilities as text, none of which changes anything here.
            1 if bytes.len() >= 4 => return Some(Self::Version),
            2 if bytes.len() == 32 => return Some(Self::DmaMap),
            // What dirty pages there were is asked for behind the message: there are none.
            3 if bytes.len() >= 24 => return Some(Self::DmaUnmap(bytes.get(..24)?)),
            4 if bytes.len() == 16 => return Some(Self::DeviceInfo),
            // `argsz`, `flags`, and the index; offset, size and capabilities are the answer's.
            5 if bytes.len() == 32 => Self::RegionInfo(body.skip(8)?.u32().filter(|index| *index < REGIONS)?),
            7 if bytes.len() == 16 => Self::InterruptInfo(body.skip(8)?.u32().filter(|index| *index < INTERRUPTS)?),
            8 => {
                let body = body.skip(8)?;
                let index = body.u32().filter(|index| *index < INTERRUPTS)?;
                Self::SetInterrupts { index, start: body.u32()?, count: body.u32()? }
            }
            9 | 10 => {
                let (offset, region, count) = (body.u64()?, body.u32()?, body.u32()?);
                let count = usize::try_from(count).ok().filter(|count| *count <= TRANSFER_MAX)?;
                let (reads, data) = (header.command == 9, body.0);
                if data.len() != if reads { 0 } else { count } {
                    return None;
                }
                if reads { Self::Read { region, offset, count } } else { Self::Write { region, offset, data } }
            }
            13 => Self::Reset,
            _ => return None,
        };
        Some(request)
    }
}

/// The bodies of answers.
pub(crate) fn version() -> Vec<u8> {
    let mut body = VERSION.to_vec();
    body.extend(CAPABILITIES.bytes());
    body.push(0);
    body
}

/// A PCI device that can be reset.
pub(crate) fn device_info() -> Vec<u8> {
    const RESET_AND_PCI: u32 = 3;
    let mut body = Vec::new();
    words(&mut body, &[16, RESET_AND_PCI, REGIONS, INTERRUPTS]);
    body
}

/// A region that is read and written by messages alone; of 0 bytes where there is none.
pub(crate) fn region_info(index: u32, size: u64) -> Vec<u8> {
    const READ_AND_WRITE: u32 = 3;
    let mut body = Vec::new();
    words(&mut body, &[32, if size == 0 { 0 } else { READ_AND_WRITE }, index, 0]);
    body.extend(size.to_le_bytes());
    body.extend(0_u64.to_le_bytes());
    body
}

/// One message-signalled interrupt, told by an event descriptor, and no others.
pub(crate) fn interrupt_info(index: u32) -> Vec<u8> {
    const EVENTFD: u32 = 1;
    let mut body = Vec::new();
    words(&mut body, &[16, EVENTFD, index, u32::from(index == MSI)]);
    body
}

/// What was accessed, and what was read there.
pub(crate) fn accessed(region: u32, offset: u64, count: usize, data: &[u8]) -> Vec<u8> {
    let mut body = offset.to_le_bytes().to_vec();
    words(&mut body, &[region, u32::try_from(count).unwrap_or(0)]);
    body.extend(data);
    body
}

fn words(bytes: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        bytes.extend(word.to_le_bytes());
    }
}

/// The rest of a body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn skip(&mut self, bytes: usize) -> Option<&mut Self> {
        self.0 = self.0.get(bytes..)?;
        Some(self)
    }
}
