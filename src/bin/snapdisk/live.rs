//! A command's side of the control socket: it finds the server that has its image open, and has it do the work. Files belong to the command:
//! it reads and writes them itself, and sends or receives what is in them.

use crate::{
    args::Command,
    control::Place,
    export::{self, Content, Each},
    failure::{At, Failure, Outcome},
    frames::{Kind, Link, NO_LENGTH, join},
    import::{CHUNK, Piece, Raw},
    interrupt, text,
};
use rustix::process::geteuid;
use std::{
    ffi::OsString,
    io::{Write, stdout},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
};

/// The server that has the image open, if there is one.
pub(crate) fn find(image: &Path) -> Option<Link> {
    let owner = image.metadata().ok()?.uid();
    let trusted = [0, geteuid().as_raw(), owner];
    let links =
        Place::all(image).into_iter().filter_map(|place| Link::new(UnixStream::connect(place.path()).ok()?).ok());
    // Whoever may put files beside the image is not thereby its server.
    links.into_iter().find(|link| link.user().is_ok_and(|user| trusted.contains(&user)))
}

/// Has the server run the command that `args` spell.
pub(crate) fn run(mut link: Link, args: &[OsString], command: Command) -> Outcome {
    match command {
        Command::Import { image, file, .. } => {
            let mut raw = Raw::open(&image, &file)?;
            interrupt::catch()?;
            ask(&mut link, args)?;
            // A server that has refused the command takes no more of the disk.
            match give(&mut link, &mut raw) {
                Ok(()) | Err(Given::Refused) => outcome(&mut link),
                Err(Given::Failed(failure)) => Err(failure),
            }
        }
        Command::Export { image, file, force, .. } => {
            ask(&mut link, args)?;
            export::copy(&mut Theirs(link), &image, &file, force)
        }
        _ => {
            ask(&mut link, args)?;
            outcome(&mut link)
        }
    }
}

fn ask(link: &mut Link, args: &[OsString]) -> Outcome {
    link.send(Kind::Args, 0, &join(args)).at("the server of the image")
}

/// Prints what the server says, up to the outcome.
fn outcome(link: &mut Link) -> Outcome {
    let mut buf = Vec::new();
    loop {
        match link.receive(&mut buf, &mut interrupt::came)? {
            (Kind::Out, _) => {
                text::require_output()?;
                let mut out = stdout().lock();
                out.write_all(&buf).and_then(|()| out.flush()).map_err(|e| text::output_failed(&e))?;
            }
            (Kind::Done, code) => return done(code, &buf),
            _ => return Err(Failure::new("the server said something else than was asked")),
        }
    }
}

fn done(code: u64, message: &[u8]) -> Outcome {
    match code as u8 {
        0 => Ok(()),
        code => Err(Failure { code, message: String::from_utf8_lossy(message).into_owned() }),
    }
}

/// Why a disk was not given as a whole.
enum Given {
    /// The server does not take it, and says why.
    Refused,
    Failed(Failure),
}

fn give(link: &mut Link, raw: &mut Raw<'_>) -> Result<(), Given> {
    let refused = |_| Given::Refused;
    link.send(Kind::Length, raw.len.unwrap_or(NO_LENGTH), &[]).map_err(refused)?;
    let mut buf = vec![0; CHUNK];
    loop {
        let piece = raw.next(&mut buf).and_then(|piece| interrupt::check().map(|()| piece));
        match piece.map_err(Given::Failed)? {
            Piece::Data(n) => link.send(Kind::Data, 0, &buf[..n]).map_err(refused)?,
            Piece::Hole(len) => link.send(Kind::Hole, len, &[]).map_err(refused)?,
            Piece::End => return link.send(Kind::End, 0, &[]).map_err(refused),
        }
    }
}

/// A disk of the server.
struct Theirs(Link);

impl Content for Theirs {
    fn len(&mut self) -> Outcome<u64> {
        let mut buf = Vec::new();
        match self.0.receive(&mut buf, &mut interrupt::came)? {
            (Kind::Size, len) => Ok(len),
            (Kind::Done, code) => done(code, &buf).and(Err(Failure::new("the server has told no length"))),
            _ => Err(Failure::new("the server has told no length")),
        }
    }
    fn walk(&mut self, len: u64, each: &mut Each<'_>) -> Outcome {
        let mut buf = Vec::new();
        loop {
            match self.0.receive(&mut buf, &mut interrupt::came)? {
                (Kind::Data, at) if at.checked_add(buf.len() as u64).is_some_and(|end| end <= len) => {
                    each(at, Some(&buf))?
                }
                (Kind::Hole, at) if at <= len => each(at, None)?,
                (Kind::Done, code) => return done(code, &buf),
                _ => return Err(Failure::new("the server said something else than was asked")),
            }
        }
    }
}
