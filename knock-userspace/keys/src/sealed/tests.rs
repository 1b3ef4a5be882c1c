use std::time::Duration;

use proptest::prelude::*;

use super::super::{KeyVersion, Kind, Newest, WINDOW, check_time, draw};
use super::*;

const NOW: u64 = 1_800_000_000_000_000_000;

fn pair(kind: Kind) -> (Sealer, Opener) {
    let (id, credential, verifier) = draw(kind).unwrap();
    (Sealer::new(id, &credential).unwrap(), Opener::new(&verifier).unwrap())
}

fn any_request() -> impl Strategy<Value = Request> {
    let doors = proptest::collection::vec(any::<[u8; 4]>().prop_map(DoorTag), 1..=MOST_DOORS);
    let address = any::<Option<IpAddr>>();
    (any::<bool>(), any::<u64>(), doors, any::<u32>(), address).prop_map(
        |(open, time_ns, doors, wanted_s, address)| Request {
            action: if open { Action::Open } else { Action::Close },
            time_ns,
            doors,
            wanted_s,
            // A mapped address stands for the IPv4 address in it.
            address: address.map_or(Address::Seen, |named| Address::Named(named.to_canonical())),
        },
    )
}

fn request() -> Request {
    Request {
        action: Action::Open,
        time_ns: NOW,
        doors: vec![DoorTag::of("ssh")],
        wanted_s: 0,
        address: Address::Seen,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens_as_it_was(request in any_request()) {
        for kind in [Kind::Shared, Kind::Public] {
            let (sealer, opener) = pair(kind);
            let packet = sealer.seal(&request).unwrap();
            prop_assert_eq!(opener.open(&packet), Ok(request.clone()));
        }
    }

    #[test]
    fn no_bytes_panic(bytes: [u8; 32]) {
        let packet = std::array::from_fn(|at| bytes[at % 32].wrapping_mul(at as u8));
        for kind in [Kind::Shared, Kind::Public] {
            prop_assert!(pair(kind).1.open(&packet).is_err());
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_even_by_who_knows_the_prefilter_key() {
    for kind in [Kind::Shared, Kind::Public] {
        let (sealer, opener) = pair(kind);
        let packet = sealer.seal(&request()).unwrap();
        for bit in 0..SIZE * 8 {
            let mut flipped = packet;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(opener.open(&flipped), Err(OpenError::Tag), "bit {bit}");
            set_tag(&mut flipped, opener.prefilter());
            match opener.open(&flipped) {
                // Bits of the tag itself were put right again.
                Ok(opened) => assert!((64..128).contains(&bit) && opened == request()),
                Err(error) => assert_eq!(error, OpenError::Cipher, "bit {bit}"),
            }
        }
    }
}

#[test]
fn another_key_opens_nothing() {
    for kind in [Kind::Shared, Kind::Public] {
        let (sealer, _) = pair(kind);
        let mut packet = sealer.seal(&request()).unwrap();
        for other in [Kind::Shared, Kind::Public] {
            let (_, opener) = pair(other);
            assert_eq!(opener.open(&packet), Err(OpenError::Tag));
            set_tag(&mut packet, opener.prefilter());
            assert_eq!(opener.open(&packet), Err(OpenError::Cipher));
        }
    }
}

/// The file of a public key has all that it takes to make a packet, but the signature.
#[test]
fn a_stolen_file_of_a_key_pair_makes_no_knock() {
    let (id, credential, verifier) = draw(Kind::Public).unwrap();
    let Credential::Public { server, .. } = credential else { panic!("a key pair") };
    let (opener, thief) = (Opener::new(&verifier).unwrap(), Secret::draw().unwrap());
    let forger = Sealer {
        id,
        prefilter: opener.prefilter(),
        keys: SealingKeys::Public { signing: Box::new(signing_key(&thief)), server },
    };
    let packet = forger.seal(&request()).unwrap();
    assert_eq!(opener.open(&packet), Err(OpenError::Signature));
}

/// A device that is paired with two hosts: what it says to one is nothing to the other.
#[test]
fn a_knock_for_one_host_is_none_for_another() {
    let (id, credential, verifier) = draw(Kind::Public).unwrap();
    let Verifier::Public { signing, exchange, .. } = verifier else { panic!("a key pair") };
    let other = Verifier::Public { signing, exchange, server: Secret::draw().unwrap() };
    let packet = Sealer::new(id, &credential).unwrap().seal(&request()).unwrap();
    assert_eq!(Opener::new(&other).unwrap().open(&packet), Err(OpenError::Tag));
}

#[test]
fn each_packet_looks_different_but_for_its_key_id() {
    for kind in [Kind::Shared, Kind::Public] {
        let (sealer, _) = pair(kind);
        let [one, two] = [(); 2].map(|()| sealer.seal(&request()).unwrap());
        assert_eq!(one[..8], two[..8]);
        for at in (8..SIZE).step_by(8) {
            assert_ne!(one[at..at + 8], two[at..at + 8], "bytes {at} on");
        }
    }
}

/// Seals what `Request` would not say.
fn sealed_body(body: [u8; BODY]) -> Result<Request, OpenError> {
    Request::read(&body)
}

#[test]
fn nonsense_inside_is_named() {
    let good = request().body();
    let with = |at: usize, value: u8| {
        let mut body = good;
        body[at] = value;
        sealed_body(body)
    };
    assert_eq!(with(0, 2), Err(OpenError::Version(2)));
    assert_eq!(with(1, 0), Err(OpenError::Malformed("action")));
    assert_eq!(with(1, 3), Err(OpenError::Malformed("action")));
    assert_eq!(with(2, 2), Err(OpenError::Malformed("address")));
    assert_eq!(with(3, 0), Err(OpenError::Malformed("doors")));
    assert_eq!(with(3, 5), Err(OpenError::Malformed("doors")));
    assert_eq!(with(16, 1), Err(OpenError::Malformed("unused bytes")));
    assert_eq!(with(47, 1), Err(OpenError::Malformed("unused bytes")));
}

#[test]
fn inside_and_outside_name_one_time() {
    let (id, credential, verifier) = draw(Kind::Shared).unwrap();
    let (sealer, opener) = (Sealer::new(id, &credential).unwrap(), Opener::new(&verifier).unwrap());
    let Credential::Shared(secret) = &credential else { panic!("a shared key") };
    let mut packet = sealer.seal(&request()).unwrap();
    set_time(&mut packet, opener.prefilter(), NOW + 1);
    let outside = outside(&packet);
    let mut inside = [0; INSIDE];
    inside[..BODY].copy_from_slice(&request().body());
    let key = derive(secret.expose(), Label::Sealed, &[]);
    let tag = cipher(&key)
        .encrypt_inout_detached(&nonce(&packet), &outside, inside.as_mut_slice().into())
        .unwrap();
    packet[CIPHERTEXT][..INSIDE].copy_from_slice(&inside);
    packet[CIPHERTEXT][INSIDE..].copy_from_slice(&tag);
    set_tag(&mut packet, opener.prefilter());
    assert_eq!(opener.open(&packet), Err(OpenError::TwoTimes));
}

/// The steps of a host whose clock may jump.
#[test]
fn a_captured_packet_never_opens_again_whatever_the_clock_does() {
    let (sealer, opener) = pair(Kind::Shared);
    let packet = sealer.seal(&request()).unwrap();
    let mut newest = Newest::default();
    let mut host = |now_ns: u64| {
        let request = opener.open(&packet).unwrap();
        check_time(request.time_ns, now_ns, WINDOW).and_then(|()| newest.accept(request.time_ns))
    };
    assert_eq!(host(NOW), Ok(()));
    for off in [0, 1, 59, 61, 86_400, 31_536_000].map(Duration::from_secs) {
        let off = off.as_nanos() as u64;
        assert!(host(NOW + off).is_err());
        assert!(host(NOW - off).is_err());
    }
}

#[test]
fn a_device_of_the_same_name_is_not_the_same_device() {
    let version = |kind| {
        let (id, _, verifier) = draw(kind).unwrap();
        KeyVersion { id, verifier }
    };
    assert_ne!(version(Kind::Shared).id, version(Kind::Shared).id);
}
