//! Lines out of a log: plain or gzip, of any length, in any encoding.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// What of a line is kept; no driver prints longer ones, and a file without line ends must not fill the memory.
const LINE_MAX: usize = 16 << 10;

/// A line as long as this is none, and its input may never end.
const ENDLESS: usize = 64 << 20;

/// Calls `each` with every line of `input` (its number from 1, and its text). Compressed input is known by its first
/// bytes. `each` returns whether it wants more.
///
/// # Errors
/// Those of the input, a broken gzip stream among them; the lines before the error have been seen.
pub fn for_each_line(input: impl Read, mut each: impl FnMut(u64, &str) -> bool) -> io::Result<()> {
    let mut input = BufReader::new(input);
    if input.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        plain(BufReader::new(MultiGzDecoder::new(input)), &mut each)
    } else {
        plain(input, &mut each)
    }
}

fn plain(mut input: impl BufRead, each: &mut impl FnMut(u64, &str) -> bool) -> io::Result<()> {
    let mut number = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if !next_line(&mut input, &mut line)? {
            return Ok(());
        }
        number += 1;
        if !each(number, String::from_utf8_lossy(&line).trim_end()) {
            return Ok(());
        }
    }
}

/// Reads one line without its end, and drops what is longer than [`LINE_MAX`]. False at the end of the input.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let (mut any, mut length) = (false, 0usize);
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let taken = end.unwrap_or(chunk.len());
        let room = LINE_MAX.saturating_sub(line.len());
        line.extend(chunk.iter().take(taken.min(room)));
        input.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(true);
        }
        length = length.saturating_add(taken);
        if length > ENDLESS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "64 MiB without the end of a line: this is no log"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(input: &[u8]) -> Vec<(u64, String)> {
        let mut lines = Vec::new();
        for_each_line(input, |number, line| {
            lines.push((number, line.to_owned()));
            true
        })
        .expect("memory reads");
        lines
    }

    #[test]
    fn lines_are_numbered_and_trimmed() {
        assert_eq!(lines(b"a\r\n\nb"), [(1, "a".to_owned()), (2, String::new()), (3, "b".to_owned())]);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn gzip_is_known_by_its_first_bytes() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"one\ntwo\n").expect("packs");
        let packed = packed.finish().expect("packs");
        assert_eq!(lines(&packed), [(1, "one".to_owned()), (2, "two".to_owned())]);
        let cut = packed.get(..packed.len() - 6).expect("long enough");
        assert!(for_each_line(cut, |_, _| true).is_err(), "half a gzip file is an error");
    }

    #[test]
    fn an_endless_line_is_an_error() {
        assert!(for_each_line(io::repeat(0), |_, _| true).is_err());
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let long = vec![b'x'; 10 * LINE_MAX];
        let lines = lines(&[&long[..], b"\nnext"].concat());
        assert_eq!(lines.iter().map(|(_, line)| line.len()).collect::<Vec<_>>(), [LINE_MAX, 4]);
    }
}
