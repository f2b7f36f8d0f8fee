//! The socket: one client at a time, one message after the other.

use crate::card::Card;
use crate::wire::{self, HEADER, Header, Request};
use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::fs;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A socket that clients can connect to. It goes from the file system with this value.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// How a client left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Parted {
    /// It closed the connection between two messages, as it should.
    #[error("the client disconnected")]
    Cleanly,
    /// The connection ended within a message.
    #[error("the client disconnected in the midst of a message")]
    Amid,
    /// A message was shorter than a header, or longer than any can be: where the next one begins is not known.
    #[error("the client sent a message of {size} bytes, and was disconnected: 16 to {max} are possible")]
    BadSize {
        /// What it says of itself.
        size: u32,
        /// The most that it may be.
        max: usize,
    },
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Failed(#[from] io::Error),
}

impl Server {
    /// Makes the socket. One that is left over from a server that is gone is replaced.
    ///
    /// # Errors
    /// What the system says. A socket that somebody listens to is [`AddrInUse`](io::ErrorKind::AddrInUse), and so is
    /// any other file of that name.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Ok(there) = fs::symlink_metadata(path) {
            if !there.file_type().is_socket() || UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)?;
        }
        Ok(Self { listener: UnixListener::bind(path)?, path: path.to_owned() })
    }

    /// Waits for a client, and serves it until it leaves. `after` is called behind every message that may have changed
    /// the card, before it is answered.
    pub fn serve(&self, card: &mut Card, mut after: impl FnMut(&mut Card)) -> Parted {
        let served = self.listener.accept().map_err(Parted::from).map(|(stream, _)| {
            let mut session = Session { stream, card, body: Vec::new() };
            loop {
                if let Err(parted) = session.message(&mut after) {
                    return parted;
                }
            }
        });
        card.disconnected();
        served.unwrap_or_else(|failed| failed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Somebody else may have removed it already.
        let _ = fs::remove_file(&self.path);
    }
}

struct Session<'a> {
    stream: UnixStream,
    card: &'a mut Card,
    /// Of the latest message, kept for its memory.
    body: Vec<u8>,
}

impl Session<'_> {
    /// Receives a message, does what it says, and answers.
    fn message(&mut self, after: &mut impl FnMut(&mut Card)) -> Result<(), Parted> {
        let mut fds = Vec::new();
        let header = self.header(&mut fds)?;
        let Some(bytes) = header.body() else {
            self.stream.write_all(&header.refusal())?;
            return Err(Parted::BadSize { size: header.size(), max: HEADER + wire::BODY_MAX });
        };
        self.body.resize(bytes, 0);
        self.stream.read_exact(&mut self.body).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Parted::Amid,
            _ => Parted::Failed(error),
        })?;
        let answer = Request::parse(header, &self.body).and_then(|request| perform(self.card, request, fds));
        after(self.card);
        if header.wants_reply() {
            let answer = answer.map_or_else(|| header.refusal(), |body| header.reply(&body));
            self.stream.write_all(&answer)?;
        }
        Ok(())
    }

    /// A header, and the descriptors that came with it.
    fn header(&self, fds: &mut Vec<OwnedFd>) -> Result<Header, Parted> {
        let mut bytes = [0; HEADER];
        let mut done = 0;
        while done < HEADER {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(16))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let rest = bytes.get_mut(done..).unwrap_or_default();
            let received = recvmsg(&self.stream, &mut [IoSliceMut::new(rest)], &mut control, RecvFlags::CMSG_CLOEXEC);
            let received = match received {
                Ok(received) => received.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Parted::Failed(error.into())),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(came) = message {
                    fds.extend(came);
                }
            }
            // A message in many parts may bring descriptors with each.
            fds.truncate(16);
            if received == 0 {
                return Err(if done == 0 { Parted::Cleanly } else { Parted::Amid });
            }
            done += received;
        }
        Ok(Header::parse(bytes))
    }
}

/// Does what a client asks; the body of the answer, or `None` where it cannot be done.
fn perform(card: &mut Card, request: Request<'_>, fds: Vec<OwnedFd>) -> Option<Vec<u8>> {
    Some(match request {
        Request::Version => wire::version(),
        Request::DmaMap => Vec::new(),
        Request::DmaUnmap(body) => body.to_vec(),
        Request::DeviceInfo => wire::device_info(),
        Request::RegionInfo(index) => wire::region_info(index, card.region_bytes(index)),
        Request::InterruptInfo(index) => wire::interrupt_info(index),
        Request::SetInterrupts { index, start, count } => {
            card.set_interrupt(index, start, count, fds)?;
            Vec::new()
        }
        Request::Read { region, offset, count } => {
            let mut data = vec![0; count];
            card.read(region, offset, &mut data)?;
            wire::accessed(region, offset, count, &data)
        }
        Request::Write { region, offset, data } => {
            card.write(region, offset, data)?;
            wire::accessed(region, offset, data.len(), &[])
        }
        Request::Reset => {
            card.reset();
            Vec::new()
        }
    })
}
