//! The programs in C and Python under `examples/`, against the libraries as a user builds them.

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
}

/// Says on the terminal, past what the test runner keeps to itself, that something was left out.
fn not_run(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "capi: {what}: not run: {why}");
}

#[track_caller]
fn run(program: impl AsRef<OsStr>, set: impl FnOnce(&mut Command) -> &mut Command) -> String {
    let mut command = Command::new(program);
    let out = set(command.current_dir(env!("CARGO_MANIFEST_DIR"))).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {}\n{said}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Builds both libraries, as `src/capi/mod.rs` says, and returns where they are.
fn libraries() -> PathBuf {
    // The test itself is target/debug/deps/it-….
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap();
    run(env!("CARGO"), |c| {
        c.args(["rustc", "--quiet", "--lib", "--features", "capi", "--crate-type", "cdylib,staticlib"])
            .arg("--target-dir")
            .arg(target)
    });
    target.join("debug")
}

fn c_program(libraries: &Path, dir: &Path) {
    let flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-I", "src/capi", "examples/disks.c", "-o"];
    let (shared, fixed) = (dir.join("shared"), dir.join("static"));
    run("cc", |c| c.args(flags).arg(&shared).arg("-L").arg(libraries).arg("-lsnapdisk"));
    let archive = libraries.join("libsnapdisk.a");
    run("cc", |c| c.args(flags).arg(&fixed).arg(archive).args(["-lpthread", "-ldl", "-lm"]));
    for (program, image) in [(shared, "a.img"), (fixed, "b.img")] {
        let said = run(program, |c| c.env("LD_LIBRARY_PATH", libraries).arg(dir.join(image)));
        assert!(said.contains("volume 2, copy: 1073741824 bytes"), "{said}");
        assert!(said.ends_with("done\n"), "{said}");
    }
}

#[test]
fn in_c_and_in_python() {
    let (cc, python) = (has("cc"), has("python3"));
    if !cc {
        // Rust links by the same program, so that it has to be there for the libraries too.
        return not_run("examples/disks.c and disks.py", "no C compiler (cc)");
    }
    let (libraries, dir) = (libraries(), tempfile::tempdir().unwrap());
    c_program(&libraries, dir.path());
    if !python {
        return not_run("examples/disks.py", "no python3");
    }
    let library = libraries.join("libsnapdisk.so");
    let said = run("python3", |c| c.arg("examples/disks.py").arg(library).arg(dir.path().join("c.img")));
    assert!(said.contains("[(0, 4096, False), (4096, 4096, True), (8192, 1040384, False)]"), "{said}");
    assert!(said.ends_with("done\n"), "{said}");
}
