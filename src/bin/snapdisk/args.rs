//! The command line: what may be said, and how sizes, names and `VOL@SNAP` are read.

use crate::image::UNFINISHED;
use clap::{Parser, Subcommand};
use snapdisk::{SECTOR, VOLUME_MAX};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

const AFTER: &str = "\
Sizes are bytes, or carry K, M, G, T or P (powers of 1024): 512, 64K, 10G.
VOL@SNAP names a snapshot; @ID names it by the number that `ls` shows, also when its volume is gone.
Exit codes: 0 done, 1 error, 2 usage, 3 damage found, 4 image in use.";

/// Many virtual disks in one image file, with real copy-on-write snapshots.
#[derive(Parser)]
#[command(name = "snapdisk", version, after_help = AFTER, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Verify everything that snapshots hold, and mark what is damaged
    Scrub {
        image: PathBuf,
        /// Read at most this much a second
        #[arg(long, value_name = "SIZE", value_parser = rate)]
        rate: Option<u64>,
        #[arg(long)]
        json: bool,
    },
    #[cfg(feature = "http")]
    Api(crate::api::ApiArgs),
    Serve(crate::serve::ServeArgs),
    /// Make an empty image
    Init {
        image: PathBuf,
        /// Size of the intent log, 1M to 64M
        #[arg(long, value_name = "SIZE", value_parser = log_size, default_value = "16M")]
        log: u64,
    },
    /// Make a volume that reads as zeros
    Create {
        image: PathBuf,
        #[arg(value_name = "VOL", value_parser = name)]
        volume: String,
        /// A multiple of 512
        #[arg(long, value_name = "SIZE", value_parser = volume_size)]
        size: u64,
    },
    /// List volumes and the tree of their snapshots
    Ls {
        image: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Tell what the image holds and what it costs
    Info {
        image: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Tell where B differs from A: what was written or discarded since
    Diff {
        image: PathBuf,
        /// A volume or snapshot, or - for a disk without data; left out, all data of B is told
        #[arg(value_name = "A")]
        first: Base,
        /// The volume or snapshot that is compared
        #[arg(value_name = "B")]
        second: Option<Target>,
        #[arg(long)]
        json: bool,
    },
    /// Make a volume from a raw disk: a file, a block device, or - for standard input
    Import {
        image: PathBuf,
        #[arg(value_name = "VOL", value_parser = name)]
        volume: String,
        file: PathBuf,
        /// Write only what differs into an existing volume of the same size
        #[arg(long)]
        update: bool,
    },
    /// Write a volume or snapshot to a new sparse file, or to - for standard output
    Export {
        image: PathBuf,
        #[arg(value_name = "VOL[@SNAP]")]
        source: Target,
        file: PathBuf,
        /// Replace FILE if it exists
        #[arg(long)]
        force: bool,
    },
    /// Take a snapshot; of several volumes: all at one point in time
    Snapshot {
        image: PathBuf,
        #[arg(value_name = "VOL@SNAP", required = true, value_parser = new_snapshot)]
        snapshots: Vec<(String, String)>,
    },
    /// Make a volume what one of its snapshots is; no snapshot is lost
    Rollback {
        image: PathBuf,
        #[arg(value_name = "VOL@SNAP", value_parser = snapshot)]
        snapshot: Target,
        /// Also where clients of a server use the volume: their connections end
        #[arg(long)]
        force: bool,
    },
    /// Make a volume that starts as a snapshot is
    Clone {
        image: PathBuf,
        #[arg(value_name = "VOL@SNAP", value_parser = snapshot)]
        snapshot: Target,
        #[arg(value_name = "NEW", value_parser = name)]
        name: String,
    },
    /// Delete a volume or a snapshot
    Rm {
        image: PathBuf,
        #[arg(value_name = "VOL[@SNAP]")]
        target: Target,
        /// Delete the volume's snapshots too
        #[arg(long, conflicts_with = "keep_snapshots")]
        with_snapshots: bool,
        /// Keep the volume's snapshots: listed, and clonable by their @ID
        #[arg(long)]
        keep_snapshots: bool,
        /// Also where clients of a server use the volume: their connections end
        #[arg(long)]
        force: bool,
    },
    /// Give a volume or a snapshot another name
    Rename {
        image: PathBuf,
        #[arg(value_name = "VOL[@SNAP]")]
        target: Target,
        #[arg(value_name = "NEW", value_parser = name)]
        name: String,
    },
    /// Grow or shrink a volume; what is cut off is gone
    Resize {
        image: PathBuf,
        #[arg(value_name = "VOL", value_parser = name)]
        volume: String,
        /// A multiple of 512
        #[arg(value_parser = volume_size)]
        size: u64,
        /// Shrink it also where clients of a server use it: their connections end
        #[arg(long)]
        force: bool,
    },
    /// Verify every checksum and every count; exit code 3 if anything is wrong
    Check {
        image: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Show all of it at work on a real disk, and prove each step
    Tour {
        /// A raw disk, only read; without it an ext4 filesystem is made on the spot
        file: Option<PathBuf>,
        /// Where to work; a directory is made there, and removed at the end
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Leave the working directory there
        #[arg(long)]
        keep: bool,
        #[arg(long)]
        json: bool,
    },
    #[command(hide = true)]
    TourChild {
        image: PathBuf,
        volume: String,
        seed: u64,
    },
}

impl Command {
    /// The image, of a verb that a server can run on a store that is open.
    pub(crate) fn image(&self) -> Option<&Path> {
        match self {
            Command::Create { image, .. }
            | Command::Ls { image, .. }
            | Command::Info { image, .. }
            | Command::Diff { image, .. }
            | Command::Import { image, .. }
            | Command::Export { image, .. }
            | Command::Snapshot { image, .. }
            | Command::Rollback { image, .. }
            | Command::Clone { image, .. }
            | Command::Rm { image, .. }
            | Command::Rename { image, .. }
            | Command::Resize { image, .. }
            | Command::Scrub { image, .. }
            | Command::Check { image, .. } => Some(image),
            _ => None,
        }
    }
}

/// A volume or a snapshot as the command line names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// `VOL`
    Volume(String),
    /// `VOL@SNAP`
    Snapshot(String, String),
    /// `@ID`
    Id(u64),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Volume(v) => f.write_str(v),
            Target::Snapshot(v, s) => write!(f, "{v}@{s}"),
            Target::Id(id) => write!(f, "@{id}"),
        }
    }
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Target, String> {
        match text.split_once('@') {
            None => Ok(Target::Volume(name(text)?)),
            Some(("", id)) => match id.parse() {
                Ok(id) if !id_has_sign(text) => Ok(Target::Id(id)),
                _ => Err("after a bare @ comes a snapshot's number".to_owned()),
            },
            Some((v, s)) => Ok(Target::Snapshot(name(v)?, name(s)?)),
        }
    }
}

/// What a disk is compared with: nothing, which is written as `-`, or a volume or snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Base(pub(crate) Option<Target>);

impl FromStr for Base {
    type Err = String;
    fn from_str(text: &str) -> Result<Base, String> {
        if text == "-" { Ok(Base(None)) } else { Ok(Base(Some(text.parse()?))) }
    }
}

fn id_has_sign(text: &str) -> bool {
    text.contains('+')
}

fn snapshot(text: &str) -> Result<Target, String> {
    match text.parse()? {
        Target::Volume(_) => Err("a snapshot is meant: VOL@SNAP or @ID".to_owned()),
        target => Ok(target),
    }
}

fn new_snapshot(text: &str) -> Result<(String, String), String> {
    match text.parse()? {
        Target::Snapshot(volume, snapshot) => Ok((volume, snapshot)),
        _ => Err("a new snapshot is meant: VOL@SNAP".to_owned()),
    }
}

/// The library has the same rule; here it stops a long copy before it starts.
fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !(1..=64).contains(&text.len()) || !text.chars().all(fits) || text.starts_with(['.', '-']) {
        return Err("a name is 1 to 64 of A-Z a-z 0-9 . _ - and starts with none of . -".to_owned());
    }
    if text == UNFINISHED {
        return Err("this name is reserved".to_owned());
    }
    Ok(text.to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_suffix('B').unwrap_or(&unit);
    let shift = match unit.strip_suffix('I').unwrap_or(unit) {
        "" if !unit.ends_with('I') => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return Err("a size is a whole number, with K, M, G, T or P after it or nothing".to_owned()),
    };
    let number: u64 = match number.parse() {
        Ok(n) => n,
        Err(_) if digits == 0 => return Err("a size starts with a number".to_owned()),
        Err(_) => return Err("too large".to_owned()),
    };
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

fn volume_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        n if n > VOLUME_MAX => Err("too large: 256T at most".to_owned()),
        n if n.is_multiple_of(SECTOR) => Ok(n),
        _ => Err("not a multiple of 512".to_owned()),
    }
}

fn log_size(text: &str) -> Result<u64, String> {
    let n = size(text)?;
    if (1 << 20..=64 << 20).contains(&n) { Ok(n) } else { Err("1M to 64M".to_owned()) }
}

fn rate(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("a rate of nothing reads nothing".to_owned()),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        let good = [("0", 0), ("512", 512), ("512B", 512), ("1k", 1 << 10), ("64KiB", 64 << 10), ("3Mi", 3 << 20)];
        for (text, bytes) in good.into_iter().chain([("10G", 10 << 30), ("256TB", 256 << 40), ("2p", 2 << 50)]) {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1", "+1", "1.5G", "1 G", "10X", "1iB", "1i", "1GG", "99999999P", "99999999999999999999"]
        {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn targets() {
        for text in ["web", "web@monday", "@12", "a.b_c-d@0"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "@", "@x", "@+1", "@-1", "web@", "a@b@c", ".a", "-a", "a@.b", "a b", "a\u{1b}[0m", UNFINISHED]
        {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        assert!(name(&"x".repeat(64)).is_ok() && name(&"x".repeat(65)).is_err());
        assert!(snapshot("web").is_err() && new_snapshot("@1").is_err());
    }
}
