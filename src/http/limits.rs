//! Admission: places for connections, by peer and in total, and how often anyone may fail to sign in.

use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How long a connection may ask for nothing before it gives way when places run out.
const IDLE: Duration = Duration::from_millis(500);
/// How long a request may take to arrive before its connection gives way.
const SLOW: Duration = Duration::from_secs(5);

/// What a connection is doing, and since when.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It waits for the head of a request, or for its answer to be read.
    Waiting,
    /// It waits for the body of one.
    Body,
    /// An action is under way.
    Work,
}

/// One peer: an IPv4 address, or an IPv6 network of 64 bits, which is what one customer has.
pub(super) fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut parts = v6.segments();
            parts[4..].fill(0);
            IpAddr::V6(parts.into())
        }
        v4 => v4,
    }
}

/// A connection's place, through which the connection can be told to close.
pub(super) struct Seat {
    phase: Mutex<(Phase, Instant)>,
    go: Notify,
}

impl Seat {
    pub(super) fn set(&self, phase: Phase) {
        *self.phase.lock() = (phase, Instant::now());
    }
    /// Notes that a request was answered. A connection that was only waiting keeps its time.
    pub(super) fn rest(&self) {
        let mut phase = self.phase.lock();
        if phase.0 != Phase::Waiting {
            *phase = (Phase::Waiting, Instant::now());
        }
    }
    /// Returns once the connection has to close. Never in the middle of an action, which may have begun since the connection was chosen.
    pub(super) async fn told(&self) {
        loop {
            self.go.notified().await;
            if self.phase.lock().0 != Phase::Work {
                return;
            }
        }
    }
    /// Returns the order in which connections give way: how little this one does, and since when.
    fn due(&self, now: Instant) -> Option<(u8, Instant)> {
        let (phase, since) = *self.phase.lock();
        let (rank, after) = match phase {
            Phase::Waiting => (0, IDLE),
            Phase::Body => (1, SLOW),
            Phase::Work => return None,
        };
        (now.saturating_duration_since(since) >= after).then_some((rank, since))
    }
    fn is_at_work(&self) -> bool {
        self.phase.lock().0 == Phase::Work
    }
}

#[derive(Default)]
struct Taken {
    next: u64,
    seats: BTreeMap<u64, (IpAddr, Arc<Seat>)>,
    by_peer: HashMap<IpAddr, usize>,
}

/// All places of a server.
pub(super) struct Places {
    most: usize,
    /// Places of one peer; 0 for no limit.
    per_peer: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

/// Why there is no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// The peer has as many as it may have.
    Peer,
    Full,
}

/// A place that is taken until this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    pub(super) seat: Arc<Seat>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some((peer, _)) = taken.seats.remove(&self.number)
            && let Some(n) = taken.by_peer.get_mut(&peer)
        {
            *n -= 1;
            if *n == 0 {
                taken.by_peer.remove(&peer);
            }
        }
        drop(taken);
        self.places.freed.notify_one();
    }
}

impl Places {
    pub(super) fn new(most: usize, per_peer: usize) -> Arc<Places> {
        Arc::new(Places { most: most.max(1), per_peer, taken: Mutex::default(), freed: Notify::new() })
    }
    /// Returns a place for a connection of `peer`, if there is one.
    pub(super) fn take(self: &Arc<Places>, peer: IpAddr) -> Result<Place, Refused> {
        let peer = peer_of(peer);
        let mut taken = self.taken.lock();
        if self.per_peer > 0 && taken.by_peer.get(&peer).is_some_and(|&n| n >= self.per_peer) {
            return Err(Refused::Peer);
        }
        if taken.seats.len() >= self.most {
            return Err(Refused::Full);
        }
        let seat = Arc::new(Seat { phase: Mutex::new((Phase::Waiting, Instant::now())), go: Notify::new() });
        let number = taken.next;
        taken.next += 1;
        taken.seats.insert(number, (peer, seat.clone()));
        *taken.by_peer.entry(peer).or_default() += 1;
        Ok(Place { places: self.clone(), number, seat })
    }
    /// [`Places::take`] that waits for up to `patience`. If all places are taken, the connection that has done least for longest gives way.
    pub(super) async fn take_in(self: &Arc<Places>, peer: IpAddr, patience: Duration) -> Result<Place, Refused> {
        let deadline = Instant::now() + patience;
        loop {
            match self.take(peer) {
                Err(Refused::Full) => {}
                other => return other,
            }
            self.make_room(peer);
            // Some connection may become idle enough meanwhile.
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Refused::Full);
            }
            let _ = tokio::time::timeout(left.min(IDLE / 5), self.freed.notified()).await;
        }
    }
    /// Chooses a connection to close: the one that does least for longest, or else one of the peer with most, if that has more than `peer`.
    fn make_room(&self, peer: IpAddr) {
        let now = Instant::now();
        let taken = self.taken.lock();
        let seats = || taken.seats.values();
        let least = seats().filter_map(|(_, seat)| Some((seat.due(now)?, seat))).min_by_key(|s| s.0).map(|s| s.1);
        let most = taken.by_peer.iter().max_by_key(|(_, n)| **n);
        let own = taken.by_peer.get(&peer_of(peer)).copied().unwrap_or(0);
        let greedy = most.filter(|(_, n)| **n > own + 1).map(|(p, _)| *p);
        let theirs = || seats().find(|(p, seat)| Some(*p) == greedy && !seat.is_at_work()).map(|(_, seat)| seat);
        if let Some(seat) = least.or_else(theirs) {
            seat.go.notify_one();
        }
    }
    /// Returns once nobody has a place.
    pub(super) async fn empty(&self) {
        while !self.taken.lock().seats.is_empty() {
            let _ = tokio::time::timeout(Duration::from_millis(50), self.freed.notified()).await;
        }
    }
}

const PERIOD: Duration = Duration::from_secs(60);
/// Names that are remembered; the oldest is forgotten first.
const NAMES: usize = 10_000;

/// Counts failures by name.
#[derive(Default)]
pub(super) struct Throttle(Mutex<HashMap<String, (u32, Instant)>>);

impl Throttle {
    /// Returns whether any of `names` has failed as often within a [`PERIOD`] as it may.
    pub(super) fn refuses(&self, names: &[(&str, u32)], now: Instant) -> bool {
        let counts = self.0.lock();
        let mut known = names.iter().filter_map(|(n, most)| Some((most, counts.get(*n)?)));
        known.any(|(most, (n, begun))| n >= most && fresh(*begun, now))
    }
    pub(super) fn failed(&self, names: &[(&str, u32)], now: Instant) {
        let mut counts = self.0.lock();
        if counts.len() + names.len() > NAMES {
            counts.retain(|_, (_, begun)| fresh(*begun, now));
        }
        while counts.len() + names.len() > NAMES {
            let Some(oldest) = counts.iter().min_by_key(|(_, c)| c.1).map(|(n, _)| n.clone()) else { break };
            counts.remove(&oldest);
        }
        for (name, _) in names {
            let count = counts.entry((*name).to_owned()).or_insert((0, now));
            if !fresh(count.1, now) {
                *count = (0, now);
            }
            count.0 = count.0.saturating_add(1);
        }
    }
}

fn fresh(begun: Instant, now: Instant) -> bool {
    now.saturating_duration_since(begun) < PERIOD
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Waker},
    };

    #[test]
    fn a_peer_has_its_places_and_no_more() {
        let places = Places::new(3, 2);
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = places.take(at("10.0.0.1")).ok().unwrap();
        let _two = places.take(at("::ffff:10.0.0.1")).ok().unwrap();
        assert_eq!(places.take(at("10.0.0.1")).err(), Some(Refused::Peer));
        let three = places.take(at("2001:db8::1")).ok().unwrap();
        assert_eq!(places.take(at("10.0.0.2")).err(), Some(Refused::Full));
        drop(one);
        let _four = places.take(at("2001:db8::2")).ok().unwrap();
        // Told to go: who waits for longest, and nobody who is at work, even if that began after the choice.
        three.seat.set(Phase::Work);
        places.make_room(at("10.0.0.9"));
        let told = |seat: &Seat| pin!(seat.told()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!told(&three.seat));
        drop(three);
        assert!(places.take(at("2001:db8::3")).is_ok() && places.take(at("2001:db8:0:1::3")).is_ok());
    }

    #[test]
    fn failures_count_by_name_and_are_forgotten() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for i in 0..10 {
            assert!(!throttle.refuses(&[("key", 10), ("address", 10)], now), "{i}");
            throttle.failed(&[("key", 10), ("address", 10)], now);
        }
        assert!(throttle.refuses(&[("key", 10), ("other", 10)], now) && throttle.refuses(&[("address", 10)], now));
        assert!(!throttle.refuses(&[("other", 10), ("key", 11)], now));
        assert!(!throttle.refuses(&[("key", 10)], now + PERIOD));
        throttle.failed(&[("key", 10)], now + PERIOD);
        assert!(!throttle.refuses(&[("key", 10)], now + PERIOD));
        for i in 0..2 * NAMES {
            throttle.failed(&[(&i.to_string(), 10)], now);
        }
        assert!(throttle.0.lock().len() <= NAMES);
    }
}
