//! The C interface: its header, what it answers to bad arguments, and programs in C and Python.

mod calls;
mod programs;

use std::{fs, path::Path};

/// The header as cbindgen makes it now. With `SNAPDISK_WRITE_HEADER` set it is written rather than compared.
#[test]
fn the_header_is_current() {
    let capi = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/capi");
    let config = cbindgen::Config::from_file(capi.join("cbindgen.toml")).unwrap();
    let sources = ["types.rs", "store.rs", "disk.rs", "data.rs"];
    let builder = sources.iter().fold(cbindgen::Builder::new(), |builder, file| builder.with_src(capi.join(file)));
    let mut made = Vec::new();
    builder.with_config(config).generate().unwrap().write(&mut made);
    let (made, path) = (String::from_utf8(made).unwrap(), capi.join("snapdisk.h"));
    if std::env::var_os("SNAPDISK_WRITE_HEADER").is_some() {
        fs::write(&path, made).unwrap();
    } else {
        let is = fs::read_to_string(&path).unwrap_or_default();
        let again = "SNAPDISK_WRITE_HEADER=1 cargo test --all-features --test it capi::the_header";
        assert!(is == made, "src/capi/snapdisk.h is not what src/capi makes: {again}");
    }
}
