//! A served card, and the library's device traits over a client of it.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use gmmu::device::{Bar0, Bar1Aperture, Clock, DeviceError, Width};
use gmmu_serve::{Card, Parted, Server};
use gmmu_sim::Config;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use vfio_user::Client;

pub const BAR0: u32 = 0;
pub const BAR1: u32 = 1;
pub const BAR2: u32 = 3;
pub const CONFIG: u32 = 7;

/// A path that no other test uses.
pub fn path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("gmmu-serve-{}-{next}.sock", std::process::id()))
}

pub fn config(chip: &str) -> Config {
    let base = Config::chip(chip);
    Config { vram: base.vram.min(1 << 30), bar1_bytes: 64 << 20, ..base }
}

/// A card that a thread serves, to `clients` clients, one after the other.
pub struct Served {
    pub path: PathBuf,
    thread: JoinHandle<(Card, Vec<Parted>, Vec<u32>)>,
}

impl Served {
    pub fn new(chip: &str, clients: usize) -> Self {
        let path = path();
        let server = Server::bind(&path).unwrap();
        let mut card = Card::new(&config(chip)).unwrap();
        let thread = std::thread::spawn(move || {
            let mut marks = Vec::new();
            let parted = (0..clients).map(|_| server.serve(&mut card, |card| marks.extend(card.take_mark()))).collect();
            (card, parted, marks)
        });
        Self { path, thread }
    }

    /// The card, how the clients parted, and the marks that they set.
    pub fn end(self) -> (Card, Vec<Parted>, Vec<u32>) {
        let ended = self.thread.join().unwrap();
        assert!(!self.path.exists(), "the socket is left over");
        ended
    }
}

/// A card at the other end of a socket.
pub struct Remote {
    pub client: Client,
    born: Instant,
    pub reads: Cell<u64>,
    pub writes: Cell<u64>,
}

impl Remote {
    pub fn connect(served: &Served) -> Self {
        let client = Client::new(&served.path).unwrap();
        Self { client, born: Instant::now(), reads: Cell::new(0), writes: Cell::new(0) }
    }

    pub fn get(&mut self, region: u32, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let mut bytes = [0; 8];
        self.client
            .region_read(region, offset, &mut bytes[..width.bytes() as usize])
            .map_err(|_| DeviceError::Backend("the connection is gone"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn put(&mut self, region: u32, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        let bytes = &value.to_le_bytes()[..width.bytes() as usize];
        self.client.region_write(region, offset, bytes).map_err(|_| DeviceError::Backend("the connection is gone"))
    }

    fn size_of(&self, region: u32) -> u64 {
        self.client.region(region).unwrap().size
    }
}

impl Bar0 for Remote {
    fn read(&mut self, offset: u32, width: Width) -> Result<u64, DeviceError> {
        let bytes = width.bytes();
        if !offset.is_multiple_of(bytes) || u64::from(offset) + u64::from(bytes) > self.size_of(BAR0) {
            return Err(DeviceError::BadOffset { offset, bytes });
        }
        self.reads.set(self.reads.get() + 1);
        self.get(BAR0, offset.into(), width)
    }

    fn write(&mut self, offset: u32, width: Width, value: u64) -> Result<(), DeviceError> {
        let bytes = width.bytes();
        if !offset.is_multiple_of(bytes) || u64::from(offset) + u64::from(bytes) > self.size_of(BAR0) {
            return Err(DeviceError::BadOffset { offset, bytes });
        }
        self.writes.set(self.writes.get() + 1);
        self.put(BAR0, offset.into(), width, value)
    }

    fn has_64bit(&self) -> bool {
        true
    }
}

impl Bar1Aperture for Remote {
    fn size(&self) -> u64 {
        self.size_of(BAR1)
    }

    fn is_64bit(&self) -> bool {
        true
    }

    fn read_at(&mut self, offset: u64, width: Width) -> Result<u64, DeviceError> {
        let (bytes, end) = (width.bytes(), self.size());
        if !offset.is_multiple_of(bytes.into()) || offset.checked_add(bytes.into()).is_none_or(|last| last > end) {
            return Err(DeviceError::BadBar1Offset { offset, bytes, end });
        }
        self.get(BAR1, offset, width)
    }

    fn write_at(&mut self, offset: u64, width: Width, value: u64) -> Result<(), DeviceError> {
        let (bytes, end) = (width.bytes(), self.size());
        if !offset.is_multiple_of(bytes.into()) || offset.checked_add(bytes.into()).is_none_or(|last| last > end) {
            return Err(DeviceError::BadBar1Offset { offset, bytes, end });
        }
        self.put(BAR1, offset, width, value)
    }
}

impl Clock for Remote {
    fn now_us(&mut self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap()
    }

    fn relax(&mut self) {
        std::thread::yield_now();
    }
}
