//! Hostile bytes for the functions that read the protocol: they answer or refuse, and never panic.

use snapdisk::nbd::{
    command::{Head, PAYLOAD_MAX, REQUEST, Terms},
    option,
};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn options_of_any_bytes() {
    let mut random = Random(1);
    for _ in 0..200_000 {
        let len = random.next() % 40;
        // Small numbers make lengths that come close to what is there.
        let mut data: Vec<u8> = (0..len).map(|_| (random.next() % 6) as u8 * (random.next() % 50) as u8).collect();
        if data.len() >= 4 {
            data[..4].copy_from_slice(&((random.next() % 12) as u32).to_be_bytes());
        }
        let code = (random.next() % 13) as u32;
        match option::parse(code, &data) {
            Ok(option::Request::Info { name, .. } | option::Request::MetaContext { name, .. }) => {
                assert!(name.len() + 6 <= data.len());
            }
            Ok(_) => {}
            Err(refusal) => {
                let mut out = Vec::new();
                option::refuse(&mut out, code, &refusal);
                assert_eq!(out[..8], option::REPLY_MAGIC.to_be_bytes());
                assert!(out[12] >> 7 == 1 && out.len() > 20);
            }
        }
    }
}

#[test]
fn requests_of_any_bytes() {
    let mut random = Random(2);
    let edges = [0, 1, 511, 512, 4096, 1 << 20, 1 << 31, u64::from(PAYLOAD_MAX), 1 << 63, u64::MAX - 1, u64::MAX];
    let edge = |random: &mut Random| edges[random.next() as usize % edges.len()];
    let mut served = 0;
    for _ in 0..200_000 {
        let mut bytes = [0; REQUEST];
        bytes[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
        bytes[5] = if random.next().is_multiple_of(2) { 0 } else { random.next() as u8 };
        bytes[7] = (random.next() % 12) as u8;
        bytes[16..24].copy_from_slice(&edge(&mut random).to_be_bytes());
        bytes[24..].copy_from_slice(&(edge(&mut random) as u32).to_be_bytes());
        let head = Head::parse(&bytes).unwrap();
        let bits = random.next();
        let [writable, structured, allocation] = [1, 2, 4].map(|bit| bits & bit != 0);
        let terms = Terms { size: edge(&mut random), writable, structured, allocation };
        if head.command(&terms).is_ok() {
            served += 1;
            assert!(head.offset.checked_add(u64::from(head.len)).is_some_and(|end| end <= terms.size));
        }
        bytes[random.next() as usize % 4] ^= 1 << (random.next() % 8);
        assert_eq!(Head::parse(&bytes), None);
    }
    assert!(served > 1000);
}
