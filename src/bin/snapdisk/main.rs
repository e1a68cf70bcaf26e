//! The command `snapdisk`: images, volumes and snapshots from a shell.
//!
//! Exit codes: 0 done, 1 error, 2 usage, 3 damage found, 4 image in use. What only reads opens shared and writes
//! nothing. Everything that another party could have chosen (names, messages, paths) is printed without control
//! characters.

#![allow(
    clippy::disallowed_methods,
    reason = "what replays is the library; this is the outermost caller, with files and clocks of its own"
)]

#[cfg(feature = "http")]
mod api;
mod args;
mod check;
mod control;
mod diff;
mod edit;
mod export;
mod failure;
mod frames;
mod image;
mod import;
mod info;
mod interrupt;
mod length;
mod list;
mod live;
mod notify;
mod progress;
mod scrub;
mod serve;
mod session;
mod streams;
mod text;
mod tour;

use args::{Cli, Command};
use clap::{Parser, error::ErrorKind as Parsing};
use failure::{Failure, Outcome, USAGE};
use import::Raw;
use session::{Here, Session};
use std::{
    env,
    io::{Write, stderr},
    path::Path,
    process::ExitCode,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), Parsing::DisplayHelp | Parsing::DisplayVersion) => {
            return ended(text::emit(&e.render().to_string()));
        }
        Err(e) => {
            // What clap quotes comes from the command line, and that may come from anywhere.
            say(&text::printable_lines(&e.render().to_string()));
            return ExitCode::from(USAGE);
        }
    };
    ended(run(cli.command))
}

fn ended(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                say(&format!("snapdisk: {}\n", text::printable(&failure.message)));
            }
            ExitCode::from(failure.code)
        }
    }
}

fn say(message: &str) {
    // If standard error is gone, there is nobody to tell.
    let _ = stderr().write_all(message.as_bytes());
}

fn run(command: Command) -> Outcome {
    let command = match command {
        Command::Init { image, log } => return edit::init(&image, log),
        #[cfg(feature = "http")]
        Command::Api(args) => return api::run(args),
        Command::Serve(args) => return serve::run(args),
        Command::Tour { file, dir, keep, json } => return tour::run(file.as_deref(), dir.as_deref(), keep, json),
        Command::TourChild { image, volume, seed } => return tour::child(&image, &volume, seed),
        command => command,
    };
    let Some(image) = command.image().map(Path::to_owned) else { return Ok(()) };
    if let Some(link) = live::find(&image) {
        return live::run(link, &env::args_os().collect::<Vec<_>>(), command);
    }
    let mut here = Here;
    let mut session = Session::alone(&image, &mut here);
    match command {
        Command::Import { volume, file, update, .. } => {
            let mut raw = Raw::open(&image, &file)?;
            interrupt::catch()?;
            import::run(&mut session, &volume, &mut raw, update)
        }
        Command::Export { source, file, force, .. } => export::run(&image, &source, &file, force),
        command => {
            if matches!(command, Command::Check { .. } | Command::Scrub { .. } | Command::Diff { .. }) {
                interrupt::catch()?;
            }
            verb(&mut session, command)
        }
    }
}

/// Runs a verb that needs nothing but the store and a place to print.
fn verb(session: &mut Session<'_>, command: Command) -> Outcome {
    match command {
        Command::Create { volume, size, .. } => edit::create(session, &volume, size),
        Command::Ls { json, .. } => list::run(session, json),
        Command::Info { json, .. } => info::run(session, json),
        Command::Diff { first, second, json, .. } => diff::run(session, first, second, json),
        Command::Snapshot { snapshots, .. } => edit::snapshot(session, &snapshots),
        Command::Rollback { snapshot, force, .. } => edit::rollback(session, &snapshot, force),
        Command::Clone { snapshot, name, .. } => edit::clone(session, &snapshot, &name),
        Command::Rm { target, with_snapshots, keep_snapshots, force, .. } => {
            edit::remove(session, &target, with_snapshots, keep_snapshots, force)
        }
        Command::Rename { target, name, .. } => edit::rename(session, &target, &name),
        Command::Resize { volume, size, force, .. } => edit::resize(session, &volume, size, force),
        Command::Scrub { rate, json, .. } => scrub::run(session, rate, json),
        Command::Check { json, .. } => check::run(session, json),
        _ => Err(Failure::usage("the command is none on an image that is open")),
    }
}
