//! Files that are no good snapshots: cut short, altered, or made to harm.

use std::sync::OnceLock;

use flate2::Crc;
use flate2::write::DeflateEncoder;
use proptest::prelude::*;
use std::io::Write;

use crate::common::Ran;
use crate::image::Scratch;
use crate::{REAL, captured, gmmu};

/// The good snapshot that the bad ones are made of.
fn good() -> &'static Vec<u8> {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let [(name, mmu), _] = REAL;
        std::fs::read(captured(name, mmu).path()).unwrap()
    })
}

fn dump(bytes: &[u8]) -> Ran {
    gmmu(&["dump", "--json", "--file", Scratch::new(bytes).path()])
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

fn number(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(*bytes.get(at..).unwrap().first_chunk().unwrap())).unwrap()
}

/// Where the parts of the good file are: the head, and the blocks, with their checksums.
fn parts() -> Vec<std::ops::Range<usize>> {
    let bytes = good();
    let head = number(bytes, 12);
    let mut pages = number(bytes, 56);
    let mut parts = Vec::from_iter(std::iter::once(0..head));
    let mut at = head;
    while pages > 0 {
        let here = pages.min(16);
        let end = at + 4 + 8 * here + number(bytes, at) + 4;
        parts.push(at..end);
        (at, pages) = (end, pages - here);
    }
    assert_eq!(at, bytes.len());
    parts
}

/// The good file with `change` done to its part `part`, and the checksum as it should be then.
fn forged(part: usize, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let bodies = parts().into_iter().map(|range| good().get(range.start..range.end - 4).unwrap().to_vec());
    let mut file: Vec<_> = bodies.collect();
    change(file.get_mut(part).unwrap());
    file.iter().flat_map(|part| [part.as_slice(), &crc(part)].concat()).collect()
}

fn put(part: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    part.splice(at..at + bytes.len(), bytes.iter().copied());
}

#[track_caller]
fn refused(bytes: &[u8], said: &str) {
    let ran = dump(bytes);
    assert_eq!((ran.code, ran.out.contains("\"va\"")), (3, false), "{said}: {ran:?}");
    assert!(ran.err.contains(said), "{said}: {}", ran.err);
    assert!(
        ran.err.contains("at byte 0x") && ran.err.contains("gmmu-cli-") && ran.err.contains("hint: "),
        "{}",
        ran.err
    );
}

#[test]
fn every_lie_of_a_head_is_found() {
    assert_eq!(dump(&forged(0, |_| ())).out, dump(good()).out);
    let text: Vec<u8> = good().iter().copied().filter(|&byte| byte != b'\r').collect();
    refused(&text, "not the first 8 bytes");
    for (at, bytes, said) in [
        (8, &[2, 0, 0, 0][..], "at byte 0x8: version 2; this program reads up to 1"),
        (8, &[0, 0, 0, 0], "version 0"),
        (12, &[0xff; 4], "at byte 0xc: a head of 4294967295 bytes"),
        (12, &[0, 0, 0, 0], "a head of 0 bytes"),
        (12, &[0, 0, 4, 0], "and the file ends after"),
        (16, b"gx999", "at byte 0x10: the chip gx999"),
        (16, &[0xff; 16], "the chip "),
        (16, b"gh100", "at byte 0x20: MMU v2, but gh100 has v3"),
        (32, &[4, 0, 0, 0], "MMU 4: it is 2 or 3"),
        (36, &[0, 0, 0, 0], "at byte 0x24: 0 address spaces"),
        (36, &[0xff; 4], "4294967295 address spaces"),
        (36, &[2, 0, 0, 0], "the head ends within a field"),
        (40, &[0xff; 16], "ends beyond 64 bits"),
        (56, &[0xff; 8], "at byte 0x38: 18446744073709551615 pages"),
        (56, &[0; 8], "bytes behind the last page"),
        (56, &[50, 0, 0, 0], "at byte 0x"),
        (64, &[3], "at byte 0x40: 0x10003 is no place of a top table"),
        (72, &[0], "an address space without a name"),
        (72, &[1], "the head is longer than what is in it"),
        (73, &[0xff], "an address space without a name"),
    ] {
        refused(&forged(0, |head| put(head, at, bytes)), said);
    }
    let mut bad_sum = good().clone();
    put(&mut bad_sum, 20, &[1]);
    refused(&bad_sum, "the head's checksum is");
}

#[test]
fn two_spaces_of_one_name_are_refused() {
    let twice = forged(0, |head| {
        let space = head.get(64..).unwrap().to_vec();
        let length = u32::try_from(head.len() + space.len() + 4).unwrap();
        head.extend(space);
        put(head, 36, &[2]);
        put(head, 12, &length.to_le_bytes());
    });
    refused(&twice, "two address spaces are called root");
}

#[test]
fn every_lie_of_a_block_is_found() {
    refused(&forged(1, |block| put(block, 0, &[0; 4])), "0 compressed bytes for 16 pages");
    refused(&forged(1, |block| put(block, 0, &[0xff; 4])), "4294967295 compressed bytes");
    refused(&forged(1, |block| put(block, 4, &[7])), "addresses of pages ascend");
    refused(&forged(2, |block| put(block, 4, &[0; 8])), "addresses of pages ascend");
    let mut bytes = good().clone();
    bytes.extend([0]);
    refused(&bytes, "1 bytes behind the last page");
    let start = parts().get(1).unwrap().start;
    let mut bytes = good().clone();
    put(&mut bytes, start + 300, &[0x55, 0xaa]);
    refused(&bytes, "the checksum of pages 1 to 16 of");
}

/// A block whose compressed pages are replaced, with a length that fits.
fn with_stream(stream: &[u8]) -> Vec<u8> {
    forged(1, |block| {
        block.truncate(4 + 16 * 8);
        block.extend(stream);
        put(block, 0, &u32::try_from(stream.len()).unwrap().to_le_bytes());
    })
}

#[test]
fn what_does_not_uncompress_to_its_pages_is_refused() {
    let deflated = |bytes: usize| {
        let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; bytes]).unwrap();
        encoder.finish().unwrap()
    };
    let said = "do not uncompress to 16 pages";
    refused(&with_stream(&deflated(16 * 4096 - 1)), said);
    refused(&with_stream(&deflated(16 * 4096 + 1)), said);
    // Fifty million zeros in fifty thousand bytes.
    refused(&with_stream(&deflated(50_000_000)), said);
    refused(&with_stream(&[0xff; 40]), said);
    let mut trailing = deflated(16 * 4096);
    trailing.extend([0; 9]);
    refused(&with_stream(&trailing), said);
    // All zeros is a table: it maps nothing.
    let ran = dump(&with_stream(&deflated(16 * 4096)));
    assert_eq!((ran.code, ran.json()["ranges"].as_array().unwrap().len()), (0, 0));
}

#[test]
fn every_shorter_file_is_refused() {
    let bytes = good();
    let ends = (0..80).chain((80..bytes.len()).step_by(97)).chain(bytes.len() - 40..bytes.len());
    for end in ends {
        let ran = dump(bytes.get(..end).unwrap());
        assert!(matches!(ran.code, 2 | 3), "{end}: {ran:?}");
        if end >= 5 {
            assert_eq!(ran.code, 3, "{end}");
            assert!(ran.err.contains("not a good snapshot"), "{end}: {}", ran.err);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever was changed: an error, or all is as it was.
    #[test]
    fn altered_files_are_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = good().clone();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            put(&mut bytes, at, &[byte]);
        }
        let ran = dump(&bytes);
        if bytes == *good() {
            prop_assert_eq!(ran.code, 0);
        } else {
            prop_assert!(matches!(ran.code, 2 | 3), "{:?}", ran);
            prop_assert!(!ran.out.contains("\"va\""));
        }
    }

    /// Files with good checksums and bad contents: anything, but no panic, in bounded time.
    #[test]
    fn forged_files_do_no_harm(
        part in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let bytes = forged(part.index(parts().len()), |part| {
            for (index, byte) in &changes {
                let at = index.index(part.len());
                put(part, at, &[*byte]);
            }
        });
        let ran = dump(&bytes);
        prop_assert!(matches!(ran.code, 0..=3), "{:?}", ran);
    }

    /// Bytes cut out of the middle, or put in.
    #[test]
    fn moved_bytes_are_refused(at in any::<prop::sample::Index>(), cut in 0usize..64, more in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = good().clone();
        let at = at.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, more);
        let ran = dump(&bytes);
        prop_assert!(bytes == *good() || matches!(ran.code, 2 | 3), "{:?}", ran);
    }
}
