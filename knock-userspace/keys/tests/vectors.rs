//! The vectors of `tests/vectors/keys.json`, which another implementation made from
//! `docs/sealed-knock.md`: the device's side and the host's side both agree with them.

use knock_common::sealed::{Gate, SIZE, key_id};
use knock_keys::{
    Action, Address, Credential, DoorTag, KeyId, Opener, Ports, Request, Roller, Rolling, Sealer,
    Secret, Verifier,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    rolling: Vec<RollingVector>,
    sealed: Vec<SealedVector>,
}

#[derive(Deserialize)]
struct RollingVector {
    secret: String,
    door: String,
    slot: u64,
    low: u16,
    high: u16,
    without: Vec<u16>,
    steps: u8,
    mixed: bool,
    made: Vec<String>,
}

#[derive(Deserialize)]
struct SealedVector {
    kind: String,
    secret: String,
    server_public: Option<String>,
    server: Option<String>,
    signing: Option<String>,
    exchange: Option<String>,
    id: String,
    random: String,
    request: RawRequest,
    packet: String,
}

#[derive(Deserialize)]
struct RawRequest {
    action: String,
    time_ns: u64,
    doors: Vec<String>,
    wanted_s: u32,
    address: Option<String>,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../../tests/vectors/keys.json")).expect("vectors")
}

fn secret(text: &str) -> Secret {
    Secret::from_text(text).expect("32 bytes")
}

fn public(text: &Option<String>) -> [u8; 32] {
    *secret(text.as_deref().expect("a public key")).expose()
}

impl SealedVector {
    fn credential(&self) -> Credential {
        match &*self.kind {
            "shared" => Credential::Shared(secret(&self.secret)),
            _ => Credential::Public {
                seed: secret(&self.secret),
                server: public(&self.server_public),
            },
        }
    }

    fn verifier(&self) -> Verifier {
        match &*self.kind {
            "shared" => Verifier::Shared(secret(&self.secret)),
            _ => Verifier::Public {
                signing: public(&self.signing),
                exchange: public(&self.exchange),
                server: secret(self.server.as_deref().expect("a secret")),
            },
        }
    }

    fn request(&self) -> Request {
        let RawRequest { action, time_ns, doors, wanted_s, address } = &self.request;
        Request {
            action: if action == "open" { Action::Open } else { Action::Close },
            time_ns: *time_ns,
            doors: doors.iter().map(|door| DoorTag::of(door)).collect(),
            wanted_s: *wanted_s,
            address: match address {
                None => Address::Seen,
                Some(address) => Address::Named(address.parse().expect("an address")),
            },
        }
    }

    fn packet(&self) -> [u8; SIZE] {
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).expect("digits");
            u8::from_str_radix(pair, 16).expect("hexadecimal")
        };
        let bytes: Vec<_> = self.packet.as_bytes().chunks(2).map(byte).collect();
        bytes.try_into().expect("a packet's size")
    }
}

#[test]
fn rolling_steps_are_those_of_the_vectors() {
    let vectors = vectors().rolling;
    assert_eq!(vectors.len(), 26);
    for vector in vectors {
        let RollingVector { secret: text, door, slot, low, high, without, steps, mixed, made } =
            vector;
        let ports = Ports::new(low..=high, without).expect("ports");
        let rolling = Rolling { ports, steps, mixed };
        let steps = Roller::shared(&secret(&text)).steps(&door, slot, &rolling);
        let steps: Vec<_> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(steps, made, "{door} in slot {slot}");
    }
}

#[test]
fn the_device_seals_what_the_vectors_say() {
    for vector in vectors().sealed {
        let id = KeyId::from_text(&vector.id).expect("an id");
        let sealer = Sealer::new(id, &vector.credential()).expect("a key");
        let packet = sealer.seal_with(&vector.request(), &secret(&vector.random));
        assert_eq!(packet, vector.packet(), "{}", vector.kind);
    }
}

#[test]
fn the_host_opens_what_the_vectors_say() {
    let vectors = vectors().sealed;
    assert_eq!(vectors.len(), 8);
    for vector in vectors {
        let opener = Opener::new(&vector.verifier()).expect("a key");
        let packet = vector.packet();
        assert_eq!(opener.open(&packet), Ok(vector.request()), "{}", vector.kind);
        // The kernel's part, which knows nothing but the prefilter key.
        let time_ns = vector.request.time_ns;
        assert_eq!(KeyId::from(key_id(&packet)).to_string(), vector.id);
        let gate = Gate { prefilter: opener.prefilter(), newest_ns: time_ns - 1 };
        assert_eq!(gate.check(&packet, time_ns, 0), Ok(time_ns));
    }
}
