//! What an address gives away: null pointers, patterns of freed memory, host pointers.

/// Values that allocators, debuggers and firmware fill memory with, as they show in an address.
const PATTERNS: &[(&str, &str)] = &[
    ("deadbeef", "a filler that marks freed or unset memory"),
    ("deadc0de", "a filler that marks freed or unset memory"),
    ("feedface", "a filler that marks unset memory"),
    ("cafebabe", "a filler that marks unset memory"),
    ("baadf00d", "a filler that marks unset memory"),
    ("badc0ffee", "a filler that marks unset memory"),
    (
        "badf",
        "the beginning of a bus error word (0xbadf….): the pointer may have been read from a register or memory that did not answer",
    ),
    ("bad00", "NVIDIA's filler for page-table entries that must not be used"),
];

/// Everything worth knowing about `va`, the address of a fault cut to its page.
#[must_use]
pub fn remarks(va: u64) -> Vec<String> {
    let mut remarks = Vec::new();
    if va == 0 {
        remarks.push("Page 0: a null pointer, or a small offset from one.".to_owned());
    } else if va < 1 << 20 {
        remarks.push("Close to 0: a null pointer with an index or the offset of a member added to it.".to_owned());
    }
    if let Some(pattern) = pattern(va) {
        remarks.push(pattern);
    }
    if va >= 1 << 57 {
        if va >> 56 == 0xff {
            remarks.push(
                "Bits 63 to 56 are all set: the upper half of a 57-bit address space, written with its sign. A small \
                 negative offset from a null pointer looks like this."
                    .to_owned(),
            );
        } else {
            remarks.push("Above 2^57: no GPU has such addresses, so this was no pointer.".to_owned());
        }
    } else if va >= 1 << 49 {
        remarks.push(
            "Above 2^49: only Hopper and Blackwell have such addresses (57 bits); Pascal to Ada end at 49.".to_owned(),
        );
    } else if va >= 1 << 47 {
        remarks
            .push("Above 2^47: no pointer of a user program on x86-64 with 4-level paging is that large.".to_owned());
    }
    match va >> 40 {
        0x55 | 0x56 => remarks.push(
            "Linux puts a program's own code and its malloc heap at 0x55… and 0x56…: this may be a host pointer that \
             was given to the GPU."
                .to_owned(),
        ),
        0x7f => remarks.push(
            "0x7f… is where Linux maps memory for a process: CUDA's allocations lie there, but so do the process's \
             stacks and libraries. The address alone does not tell a device pointer from a host pointer."
                .to_owned(),
        ),
        _ => {}
    }
    remarks
}

/// A filler in the address: one of the known ones, or one byte over and over.
fn pattern(va: u64) -> Option<String> {
    let text = format!("{va:x}");
    if let Some((pattern, meaning)) = PATTERNS.iter().find(|(pattern, _)| text.contains(pattern)) {
        return Some(format!("Contains 0x{pattern}: {meaning}."));
    }
    let bytes = (va >> 12).to_le_bytes();
    // At a page address the low 12 bits are cut off, so a pattern shows from the next byte or half byte on.
    let repeated = [va >> 16, va >> 12].into_iter().find_map(|bits| {
        let byte = bits & 0xff;
        let alike = (0..8u32).take_while(|n| bits >> (8 * n) & 0xff == byte).count();
        (byte != 0 && byte != 0xff && alike >= 4).then_some(byte)
    });
    match repeated {
        Some(byte) => Some(format!("The byte 0x{byte:02x} over and over: memory that a debugger or allocator filled.")),
        None if bytes.iter().take(4).all(|&byte| byte == 0xff) => Some(
            "All low bits set: a pointer of -1, or data that was read from a device that was not there.".to_owned(),
        ),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(va: u64) -> String {
        remarks(va).join(" ")
    }

    #[test]
    fn addresses_give_themselves_away() {
        for (va, part) in [
            (0, "null pointer"),
            (0x3000, "index or the offset"),
            (0x00de_adbe_ef00_0000, "0xdeadbeef"),
            (0x0000_bad0_0200_0000, "0xbad00"),
            (0xbadf_5040_0000, "0xbadf"),
            (0xcdcd_cdcd_c000, "0xcd over and over"),
            (0x4141_4141_4000, "0x41 over and over"),
            (0xffff_ffff_f000, "All low bits set"),
            (0x5555_5578_9000, "host pointer"),
            (0x7f29_5b8c_9000, "does not tell"),
            (0x0000_9000_0000_0000, "Above 2^47"),
            (0x0003_0000_0000_0000, "Above 2^49"),
            (0x0300_0000_0000_0000, "Above 2^57"),
            (0xff80_0000_0000_0000, "with its sign"),
        ] {
            assert!(said(va).contains(part), "{va:#x}: {}", said(va));
        }
        assert_eq!(said(0x0000_0010_0000_0000), "");
        assert_eq!(said(0x0abe_0000), "");
    }

    proptest! {
        #[test]
        fn nothing_panics(va: u64) {
            let _ = remarks(va);
        }
    }
}
