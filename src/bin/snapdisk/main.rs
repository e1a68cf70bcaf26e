//! The command `snapdisk`: images, volumes and snapshots from a shell.
//!
//! Exit codes: 0 done, 1 error, 2 usage, 3 damage found, 4 image in use. What only reads opens shared and writes
//! nothing. Everything that another party could have chosen (names, messages, paths) is printed without control
//! characters.

#![allow(
    clippy::disallowed_methods,
    reason = "what replays is the library; this is the outermost caller, with files and clocks of its own"
)]

mod args;
mod check;
mod edit;
mod export;
mod failure;
mod image;
mod import;
mod info;
mod interrupt;
mod length;
mod list;
mod progress;
mod scrub;
#[cfg(feature = "http")]
mod serve;
mod streams;
mod text;
mod tour;

use args::{Cli, Command};
use clap::{Parser, error::ErrorKind as Parsing};
use failure::{Outcome, USAGE};
use std::{
    io::{Write, stderr},
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
    match command {
        Command::Init { image, log } => edit::init(&image, log),
        Command::Create { image, volume, size } => edit::create(&image, &volume, size),
        Command::Ls { image, json } => list::run(&image, json),
        Command::Info { image, json } => info::run(&image, json),
        Command::Import { image, volume, file, update } => import::run(&image, &volume, &file, update),
        Command::Export { image, source, file, force } => export::run(&image, &source, &file, force),
        Command::Snapshot { image, snapshots } => edit::snapshot(&image, &snapshots),
        Command::Rollback { image, snapshot } => edit::rollback(&image, &snapshot),
        Command::Clone { image, snapshot, name } => edit::clone(&image, &snapshot, &name),
        Command::Rm { image, target, with_snapshots, keep_snapshots } => {
            edit::remove(&image, &target, with_snapshots, keep_snapshots)
        }
        Command::Rename { image, target, name } => edit::rename(&image, &target, &name),
        Command::Resize { image, volume, size } => edit::resize(&image, &volume, size),
        Command::Scrub { image, rate, json } => scrub::run(&image, rate, json),
        Command::Check { image, json } => check::run(&image, json),
        #[cfg(feature = "http")]
        Command::Api(args) => serve::run(args),
        Command::Tour { file, dir, keep, json } => tour::run(file.as_deref(), dir.as_deref(), keep, json),
        Command::TourChild { image, volume, seed } => tour::child(&image, &volume, seed),
    }
}
