//! Asks nouveau for buffers and mappings, as the lines on its input say, and answers each with one line: `ok …`, or
//! `error …`. It runs in a guest; who checks what the driver made of it is on the other side, and is told by the card's
//! marker when to look.
//!
//! ```text
//! client                        from here on another client, with an address space of its own
//! init ADDR BYTES               its addresses are given by `map`; these are the kernel's
//! buffer NAME BYTES             a buffer in video memory that the CPU can reach
//! fill NAME VALUE STRIDE        writes VALUE + OFFSET to every STRIDE-th byte offset, through BAR1, and reads them back
//! map NAME OFFSET ADDR BYTES    VM_BIND
//! unmap ADDR BYTES
//! sparse ADDR BYTES, unsparse ADDR BYTES
//! quit
//! ```

mod drm;
mod mark;

use std::collections::HashMap;
use std::io::{self, BufRead, Write};

use drm::{Buffer, Client, Op};
use mark::Marker;

fn main() {
    let mut session = Session::default();
    let mut out = io::stdout();
    let mut marker = match Marker::find() {
        Ok(marker) => marker,
        Err(why) => {
            println!("error {why}");
            return;
        }
    };
    match marker.mark() {
        Ok(()) => println!("ready"),
        Err(why) => println!("error {why}"),
    }
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        if line.trim() == "quit" {
            return;
        }
        let answer = match session.obey(line.trim()).and_then(|answer| marker.mark().map(|()| answer)) {
            Ok(answer) => format!("ok {answer}"),
            Err(why) => format!("error {why}"),
        };
        if writeln!(out, "{}", answer.trim_end()).and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Session {
    client: Option<Client>,
    buffers: HashMap<String, Buffer>,
}

impl Session {
    fn obey(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.as_slice() == ["client"] {
            self.buffers.clear();
            self.client = Some(Client::open()?);
            return Ok(String::new());
        }
        let client = self.client.as_ref().ok_or("no client yet")?;
        let bind = |op, buffer, offset, addr, bytes| {
            let op = Op { op, buffer, offset: number(offset)?, addr: number(addr)?, bytes: number(bytes)? };
            client.bind(&op).map(|()| String::new())
        };
        match words.as_slice() {
            ["init", addr, bytes] => client.init(number(addr)?, number(bytes)?).map(|()| String::new()),
            ["buffer", name, bytes] => {
                let buffer = client.buffer(number(bytes)?)?;
                let bytes = buffer.bytes;
                self.buffers.insert((*name).to_owned(), buffer);
                Ok(format!("{bytes:#x}"))
            }
            ["fill", name, value, stride] => {
                let (written, wrong) = client.fill(self.named(name)?, number(value)?, number(stride)?)?;
                Ok(format!("{written} written, {wrong} wrong"))
            }
            ["map", name, offset, addr, bytes] => bind(drm::MAP, self.named(name)?.handle, offset, addr, bytes),
            ["unmap", addr, bytes] => bind(drm::UNMAP, 0, "0", addr, bytes),
            ["sparse", addr, bytes] => bind(drm::SPARSE, 0, "0", addr, bytes),
            ["unsparse", addr, bytes] => bind(drm::UNSPARSE, 0, "0", addr, bytes),
            _ => Err(format!("{line:?} is not understood")),
        }
    }

    fn named(&self, name: &str) -> Result<&Buffer, String> {
        self.buffers.get(name).ok_or_else(|| format!("no buffer {name:?}"))
    }
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text:?}: {error}"))
}
