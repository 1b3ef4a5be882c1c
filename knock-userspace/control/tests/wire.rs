//! The JSON of every message, byte by byte: other programs speak this protocol.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use knock_control::{
    AttachedMode, Caller, Connections, Done, Door, Fault, Grant, Interface, Mode, Open, Problem,
    Reply, Revoke, Status, Try,
};
use knock_policy::lockout::Session;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Checks that `message` is written as `text`, and read from it.
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T, text: &str) {
    assert_eq!(serde_json::to_string(message).unwrap(), text);
    assert_eq!(serde_json::from_str::<T>(text).unwrap(), *message);
}

fn refusal<T: DeserializeOwned + Debug>(text: &str) -> String {
    serde_json::from_str::<T>(text).unwrap_err().to_string()
}

const MINUTES: Duration = Duration::from_secs(60);

#[test]
fn bodies_of_requests() {
    let address = "192.0.2.7".parse().unwrap();
    let open = Open { door: "ssh".into(), address, lasts: Some(10 * MINUTES) };
    golden(&open, r#"{"door":"ssh","address":"192.0.2.7","for":"10m"}"#);
    let open = Open { lasts: None, ..open };
    golden(&open, r#"{"door":"ssh","address":"192.0.2.7","for":null}"#);
    let short = r#"{"door":"ssh","address":"192.0.2.7"}"#;
    assert_eq!(serde_json::from_str::<Open>(short).unwrap(), open);

    let revoke = Revoke { address: Some(address), door: Some("ssh".into()) };
    golden(&revoke, r#"{"address":"192.0.2.7","door":"ssh"}"#);
    golden(&Revoke::default(), r#"{"address":null,"door":null}"#);
    assert_eq!(serde_json::from_str::<Revoke>("{}").unwrap(), Revoke::default());

    let session = Session { client: address, port: 22 };
    let caller = Caller { session: Some(session), force: true };
    golden(&caller, r#"{"session":{"client":"192.0.2.7","port":22},"force":true}"#);
    golden(&Caller::default(), r#"{"session":null,"force":false}"#);
    assert_eq!(serde_json::from_str::<Caller>("{}").unwrap(), Caller::default());

    golden(&Try { lasts: 2 * MINUTES }, r#"{"for":"2m"}"#);
    golden(&Try { lasts: Duration::from_millis(90_500) }, r#"{"for":"1m 30s 500ms"}"#);
    // Other ways to write the same.
    let written = serde_json::from_str::<Try>(r#"{"for":"120 sec"}"#).unwrap();
    assert_eq!(written, Try { lasts: 2 * MINUTES });
}

#[test]
fn bodies_that_cannot_be_read() {
    let soon = refusal::<Try>(r#"{"for":"soon"}"#);
    assert!(soon.contains("`soon` is no length of time") && soon.contains("\"5m\""), "{soon}");
    assert!(refusal::<Try>("{}").contains("missing field `for`"));
    assert!(refusal::<Try>(r#"{"for":120}"#).contains("expected a string"));
    let soon = refusal::<Open>(r#"{"door":"ssh","address":"::1","for":"soon"}"#);
    assert!(soon.contains("`soon` is no length of time"), "{soon}");
}

#[test]
fn answers() {
    let status = Status {
        version: "0.1.0".into(),
        process: 16729,
        mode: Mode::Enforce,
        trial_seconds: Some(119.5),
        confirmed: false,
        connections: Connections::Conntrack,
        interfaces: vec![
            Interface { name: "eth0".into(), index: 2, mode: AttachedMode::Native },
            Interface { name: "wlan0".into(), index: 3, mode: AttachedMode::Generic },
        ],
        awaited: vec!["lan*".into()],
        doors: 1,
        grants: 2,
        refused_packets: 3,
        restored: 4,
        late: 5,
        pinned: true,
        keys: 6,
        key_knocks: BTreeMap::from([("opened".into(), 7)]),
        packets: BTreeMap::from([("step".into(), 8)]),
    };
    let text = r#"{"version":"0.1.0","process":16729,"mode":"enforce","trial_seconds":119.5,"confirmed":false,"connections":"conntrack","interfaces":[{"name":"eth0","index":2,"mode":"native"},{"name":"wlan0","index":3,"mode":"generic"}],"awaited":["lan*"],"doors":1,"grants":2,"refused_packets":3,"restored":4,"late":5,"pinned":true,"keys":6,"key_knocks":{"opened":7},"packets":{"step":8}}"#;
    golden(&status, text);
    let reply = Reply::Status(Box::new(status));
    assert_eq!(serde_json::to_string(&reply).unwrap(), text, "without a tag");
    golden(&Mode::Observe, "\"observe\"");
    golden(&Connections::Stateless, "\"stateless\"");

    let half_a_minute = Duration::from_secs(30);
    let opens = vec!["tcp/22".into()];
    let door = Door { name: "ssh".into(), opens, open_for: half_a_minute, grants: 0 };
    let text = r#"{"name":"ssh","opens":["tcp/22"],"open_for":"30s","grants":0}"#;
    golden(&door, text);
    let list = serde_json::to_string(&Reply::Doors(vec![door])).unwrap();
    assert_eq!(list, format!("[{text}]"));

    let source = "198.51.100.7".parse().unwrap();
    let grant = Grant { source, service: "tcp/22".into(), door: Some("ssh".into()), seconds: 29.5 };
    let text = r#"{"source":"198.51.100.7","service":"tcp/22","door":"ssh","seconds":29.5}"#;
    golden(&grant, text);
    let list = serde_json::to_string(&Reply::Grants(vec![grant])).unwrap();
    assert_eq!(list, format!("[{text}]"));

    golden(&Done { message: "done".into() }, r#"{"message":"done"}"#);
    // The kind of a problem is in the HTTP status.
    golden(&Problem::new(Fault::Request, "there is no door"), r#"{"error":"there is no door"}"#);
    let locked_out = serde_json::to_string(&Problem::new(Fault::LockOut, "no")).unwrap();
    assert_eq!(locked_out, r#"{"error":"no"}"#);
}

#[test]
fn words_for_people_are_those_on_the_wire() {
    fn same<T: Serialize + ToString>(values: &[T]) {
        for value in values {
            assert_eq!(serde_json::to_string(value).unwrap(), format!("{:?}", value.to_string()));
        }
    }
    same(&[Mode::Observe, Mode::Enforce]);
    same(&[Connections::Stateless, Connections::Conntrack]);
    same(&[AttachedMode::Native, AttachedMode::Generic]);
}
