//! Random requests, several at once, against a vector of bytes.

use super::client::*;
use std::collections::HashMap;

const SIZE: u64 = (6 << 20) + 1536;

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// A range inside one of the equal parts that the disk is cut into.
fn range(random: &mut Random, part: u64, parts: u64) -> (u64, u32) {
    let width = SIZE / parts;
    let unit = [1, 512, 4096][random.next(3) as usize];
    let from = random.next(width) / unit * unit;
    let most = [700, 20_000, width][random.next(3) as usize].min(width - from);
    let len = (random.next(most + 1) / unit * unit).max(1).min(width - from);
    (part * width + from, len as u32)
}

/// Bursts of requests that do not overlap, so that their order makes no difference; every reply is compared.
fn run(seed: u64, structured: bool, bursts: usize) {
    let served = Served::new();
    let volume = served.store.create_volume("v", SIZE).unwrap();
    let mut random = Random(seed * 2 + 1);
    let mut model = vec![0u8; SIZE as usize];
    let mut clients: Vec<Client> = (0..3).map(|_| served.client("v", structured)).collect();
    for burst in 0..bursts {
        let client = &mut clients[random.next(3) as usize];
        let parts = 1 + random.next(16);
        let mut expected: HashMap<u64, (u64, Option<Vec<u8>>)> = HashMap::new();
        let mut bytes = Vec::new();
        for part in 0..parts {
            let (offset, len) = range(&mut random, part, parts);
            let (from, to) = (offset as usize, (offset + u64::from(len)) as usize);
            let cookie = random.next(1 << 40) << 8 | part;
            let mut data = None;
            match random.next(8) {
                0..3 => {
                    let payload: Vec<u8> =
                        (0..len).map(|i| (i as u8).wrapping_mul(part as u8 + 3) ^ burst as u8).collect();
                    model[from..to].copy_from_slice(&payload);
                    let flags = if random.next(8) == 0 { FUA } else { 0 };
                    bytes.extend([head(flags, WRITE, cookie, offset, len), payload].concat());
                }
                3 => {
                    model[from..to].fill(0);
                    let flags = [0, NO_HOLE, FAST, FUA][random.next(4) as usize];
                    bytes.extend(head(flags, ZEROES, cookie, offset, len));
                }
                4 => {
                    model[from..to].fill(0);
                    bytes.extend(head(0, TRIM, cookie, offset, len));
                }
                5 => bytes.extend(head(0, FLUSH, cookie, 0, 0)),
                _ => {
                    data = Some(model[from..to].to_vec());
                    let flags = if structured && random.next(4) == 0 { DF } else { 0 };
                    bytes.extend(head(flags, READ, cookie, offset, len));
                }
            }
            expected.insert(cookie, (offset, data));
        }
        // In pieces that have nothing to do with the requests.
        let mut sender = client.stream.try_clone().unwrap();
        let cut = random.next(bytes.len() as u64 + 1) as usize;
        let sending = std::thread::spawn(move || {
            use std::io::Write;
            sender.write_all(&bytes[..cut]).unwrap();
            sender.write_all(&bytes[cut..]).unwrap();
        });
        while !expected.is_empty() {
            receive(client, &mut expected);
        }
        sending.join().unwrap();
        if burst % 16 == 15 {
            let mut all = vec![0; SIZE as usize];
            volume.read_at(&mut all, 0).unwrap();
            assert!(all == model, "seed {seed}, burst {burst}");
        }
    }
    drop(clients);
    drop(served.server);
    assert!(served.store.check().unwrap().is_clean());
}

/// Takes one message, and what it says off what is expected: data that is left is still to come.
fn receive(client: &mut Client, expected: &mut HashMap<u64, (u64, Option<Vec<u8>>)>) {
    match client.message() {
        Message::Simple(0, cookie) => {
            let (_, data) = expected.remove(&cookie).unwrap();
            if let Some(data) = data {
                assert!(client.take(data.len()) == data);
            }
        }
        Message::Chunk(flags, kind, cookie, payload) => {
            let (offset, data) = expected.get_mut(&cookie).unwrap();
            let at = || (u64::from_be_bytes(payload[..8].try_into().unwrap()) - *offset) as usize;
            match (kind, data) {
                (1, Some(data)) => {
                    let part = &mut data[at()..at() + payload.len() - 8];
                    assert!(part == &payload[8..]);
                    // Seen; a second chunk about it would differ.
                    part.iter_mut().for_each(|b| *b = !*b);
                }
                (2, Some(data)) => {
                    let len = u32::from_be_bytes(payload[8..12].try_into().unwrap()) as usize;
                    let part = &mut data[at()..at() + len];
                    assert!(part.iter().all(|&b| b == 0));
                    part.fill(0xff);
                }
                (0, _) => {}
                other => panic!("{other:?}"),
            }
            if flags & 1 == 1 {
                expected.remove(&cookie);
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn simple_replies() {
    run(1, false, 150);
}

#[test]
fn structured_replies() {
    run(2, true, 150);
}
