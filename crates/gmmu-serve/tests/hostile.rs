//! Clients that do everything wrong: the server answers, or drops them, and serves the next one as if nothing had been.
#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

mod common;

use common::{BAR0, BAR1, CONFIG, Remote, Served, path};
use gmmu::device::Bar0;
use gmmu_serve::{Parted, Server};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const EINVAL: u32 = 22;

/// A connection that speaks bytes.
struct Raw(UnixStream);

impl Raw {
    fn connect(served: &Served) -> Self {
        let stream = UnixStream::connect(&served.path).unwrap();
        // A server that waits for more than it should shows as an error, not as a test that hangs.
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(stream)
    }

    fn send(&mut self, command: u16, size: u32, body: &[u8]) {
        let mut bytes = [7_u16.to_le_bytes(), command.to_le_bytes()].concat();
        for word in [size, 0, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(body);
        self.0.write_all(&bytes).unwrap();
    }

    /// Flags and error of the next answer, and its body.
    fn answer(&mut self) -> (u32, u32, Vec<u8>) {
        let mut header = [0; 16];
        self.0.read_exact(&mut header).unwrap();
        let word = |at| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(header[..2], [7, 0]);
        let mut body = vec![0; word(4) as usize - 16];
        self.0.read_exact(&mut body).unwrap();
        (word(8), word(12), body)
    }

    /// A whole message, and that it is refused.
    fn refused(&mut self, command: u16, body: &[u8]) {
        self.send(command, 16 + u32::try_from(body.len()).unwrap(), body);
        let (flags, error, body) = self.answer();
        assert_eq!((flags, error, body.len()), (1 | 1 << 5, EINVAL, 0), "command {command}");
    }
}

fn access(offset: u64, region: u32, count: u32, data: &[u8]) -> Vec<u8> {
    let mut body = offset.to_le_bytes().to_vec();
    body.extend(region.to_le_bytes());
    body.extend(count.to_le_bytes());
    body.extend(data);
    body
}

/// A good client after all that: the card answers.
fn still_works(served: Served) -> Vec<Parted> {
    let mut remote = Remote::connect(&served);
    assert_eq!(remote.read32(0), Ok(0x1800_00a1));
    drop(remote);
    served.end().1
}

#[test]
fn what_makes_no_sense_is_refused_and_the_connection_goes_on() {
    let served = Served::new("gh100", 2);
    let mut raw = Raw::connect(&served);
    for command in [0, 6, 11, 12, 14, 15, 0xffff] {
        raw.refused(command, &[]);
        raw.refused(command, &[1; 40]);
    }
    // Bodies of wrong lengths.
    for (command, length) in [(1, 3), (2, 31), (2, 33), (3, 23), (4, 0), (5, 31), (7, 15), (8, 19), (9, 15), (10, 12)] {
        raw.refused(command, &vec![0; length]);
    }
    // Regions and interrupts that there are not.
    for index in [9_u32, 5000, u32::MAX] {
        let mut body = [0; 32];
        body[8..12].copy_from_slice(&index.to_le_bytes());
        raw.refused(5, &body);
        raw.refused(7, &body[..16]);
        raw.refused(8, &body[..20]);
    }
    // Reads outside of a region, at its end, of nothing that exists; more than anybody may ask for.
    for (offset, region, count) in [
        (16 << 20, BAR0, 1),
        ((16 << 20) - 3, BAR0, 4),
        (u64::MAX, BAR0, 8),
        (u64::MAX - 7, BAR1, 8),
        (0, 2, 4),
        (0, 9, 4),
        (0, u32::MAX, 4),
        (254, CONFIG, 4),
        (u64::MAX, CONFIG, 1),
        (0, BAR0, 4097),
        (0, BAR0, u32::MAX),
    ] {
        raw.refused(9, &access(offset, region, count, &[]));
        if count <= 8 {
            raw.refused(10, &access(offset, region, count, &vec![0xff; count as usize]));
        }
    }
    // Writes whose count is not what came, reads with data.
    raw.refused(10, &access(0, BAR0, 8, &[0; 4]));
    raw.refused(10, &access(0, BAR0, 4, &[0; 8]));
    raw.refused(9, &access(0, BAR0, 4, &[0; 4]));
    // And it is all as before, unaligned reads too: BOOT_0, byte by byte.
    raw.send(9, 32, &access(0, BAR0, 4, &[]));
    assert_eq!(raw.answer().2[16..], 0x1800_00a1_u32.to_le_bytes());
    raw.send(9, 32, &access(1, BAR0, 3, &[]));
    assert_eq!(raw.answer().2[16..], [0, 0, 0x18]);
    raw.send(9, 32, &access(5, BAR1, 0, &[]));
    assert_eq!(raw.answer().0, 1);
    drop(raw);
    assert!(matches!(still_works(served)[..], [Parted::Cleanly, Parted::Cleanly]));
}

#[test]
fn lengths_that_cannot_be_end_the_connection_and_nothing_else() {
    for size in [0, 1, 15, 5000, 1 << 20, 1 << 31, u32::MAX] {
        let served = Served::new("gh100", 2);
        let mut raw = Raw::connect(&served);
        raw.send(1, size, &[]);
        assert_eq!(raw.answer().1, EINVAL);
        let mut rest = Vec::new();
        raw.0.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        let parted = still_works(served);
        assert!(matches!(parted[..], [Parted::BadSize { size: told, .. }, Parted::Cleanly] if told == size));
    }
}

#[test]
fn half_a_message_ends_the_connection_and_nothing_else() {
    // Cut within the header, behind it, and within the body.
    let whole = access(0, BAR0, 8, &[1; 8]);
    for length in [1, 15, 16, 17, 16 + whole.len() - 1] {
        let served = Served::new("gh100", 2);
        let mut raw = Raw::connect(&served);
        let mut bytes = [7_u16.to_le_bytes(), 10_u16.to_le_bytes()].concat();
        for word in [16 + u32::try_from(whole.len()).unwrap(), 0, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&whole);
        raw.0.write_all(&bytes[..length]).unwrap();
        drop(raw);
        let parted = still_works(served);
        assert!(matches!(parted[..], [Parted::Amid, Parted::Cleanly]), "{length}: {parted:?}");
    }
}

#[test]
fn a_message_in_crumbs_is_a_message() {
    let served = Served::new("gh100", 1);
    let mut raw = Raw::connect(&served);
    let mut bytes = [7_u16.to_le_bytes(), 9_u16.to_le_bytes()].concat();
    for word in [32_u32, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(access(0xa00, BAR0, 4, &[]));
    for byte in bytes {
        raw.0.write_all(&[byte]).unwrap();
    }
    assert_eq!(raw.answer().2[16..], 0x180a_1000_u32.to_le_bytes());
    drop(raw);
    served.end();
}

#[test]
fn who_leaves_without_reading_the_answers_does_no_harm() {
    let served = Served::new("gh100", 2);
    let mut raw = Raw::connect(&served);
    for _ in 0..8 {
        raw.send(9, 32, &access(0x70_0000, BAR0, 4096, &[]));
    }
    drop(raw);
    let parted = still_works(served);
    // Whether the last answer found nobody depends on who was faster.
    assert!(matches!(parted[..], [Parted::Cleanly | Parted::Failed(_), Parted::Cleanly]), "{parted:?}");
}

#[test]
fn noise_does_no_harm() {
    let served = Served::new("gh100", 64 + 1);
    let mut seed = 1_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u32
    };
    for _ in 0..64 {
        let mut raw = Raw::connect(&served);
        for _ in 0..40 {
            let length = next() % 64;
            let body: Vec<u8> = (0..length).map(|_| (next() & 0xff) as u8).collect();
            // What is refused for good closes the connection, and the rest of the noise finds nobody.
            let mut bytes = [7_u16.to_le_bytes(), ((next() % 16) as u16).to_le_bytes()].concat();
            for word in [16 + length, 1 << 4, 0] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(body);
            if raw.0.write_all(&bytes).is_err() {
                break;
            }
        }
    }
    let parted = still_works(served);
    assert_eq!(parted.len(), 65);
}

#[test]
fn the_socket_is_nobody_elses_file() {
    let path = path();
    std::fs::write(&path, "precious").unwrap();
    assert!(Server::bind(&path).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    let server = Server::bind(&path).unwrap();
    assert!(Server::bind(&path).is_err(), "somebody listens there");
    drop(server);
    assert!(!path.exists());
    // Left over by one that was killed.
    let leftover = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(leftover);
    assert!(path.exists());
    drop(Server::bind(&path).unwrap());
}
