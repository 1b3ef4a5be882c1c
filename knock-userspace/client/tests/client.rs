//! The client as a user runs it, on loopback.

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

fn xknock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xknock")).args(arguments).output().expect("xknock runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port that nothing uses at the moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

#[test]
fn steps_arrive_in_order_with_their_protocols() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let steps = format!(
        "udp/{},tcp/{}",
        udp.local_addr().unwrap().port(),
        tcp.local_addr().unwrap().port()
    );
    let output = xknock(&["127.0.0.1", "--steps", &steps, "--gap", "1ms", "-v"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut datagram = [0; 16];
    assert_eq!(udp.recv(&mut datagram).unwrap(), 0, "a UDP step carries nothing");
    tcp.accept().unwrap();
    let said = stderr(&output);
    assert!(said.find("udp/").unwrap() < said.find("tcp/").unwrap(), "{said}");
}

#[test]
fn closed_ports_are_knocked_on_without_complaint() {
    let steps = format!("tcp/{},udp/{}", free_port(), free_port());
    let output = xknock(&["127.0.0.1", "--steps", &steps, "--gap", "1ms"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn the_classic_form_works() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let step = format!("{}:udp", udp.local_addr().unwrap().port());
    assert!(xknock(&["127.0.0.1", &step]).status.success());
    udp.recv(&mut [0; 16]).unwrap();
}

#[test]
fn waiting_ends_when_the_port_opens() {
    let port = free_port();
    let service = format!("tcp/{port}");
    let step = UdpSocket::bind("127.0.0.1:0").unwrap();
    step.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let knock = format!("udp/{}", step.local_addr().unwrap().port());
    let server = thread::spawn(move || {
        // The port opens once the knock has come, as behind a guard.
        step.recv(&mut [0; 16]).unwrap();
        TcpListener::bind(("127.0.0.1", port)).unwrap().accept().unwrap();
    });
    let output = xknock(&["127.0.0.1", "--steps", &knock, "--wait", &service]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("answers after"), "{}", stderr(&output));
    server.join().unwrap();
}

#[test]
fn waiting_for_nothing_ends_with_a_reason() {
    let service = format!("tcp/{}", free_port());
    let arguments = ["127.0.0.1", "--steps", "udp/9", "--wait", &service, "--timeout", "200ms"];
    let output = xknock(&arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("did not answer within 200ms"), "{}", stderr(&output));
}

#[test]
fn misuse_is_distinguished_from_failure() {
    for (arguments, expected) in [
        (vec!["127.0.0.1"], "no steps"),
        (vec!["127.0.0.1", "--steps", "tcp/0"], "is not a step"),
        (vec!["127.0.0.1", "--steps", "tcp/1", "--wait", "udp/53"], "only TCP ports answer"),
        (vec!["127.0.0.1", "--steps", "tcp/1", "--gap", "soon"], "--gap"),
        (vec!["--steps", "tcp/1"], "<HOST>"),
    ] {
        let output = xknock(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    let output = xknock(&["host.invalid", "--steps", "tcp/1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot find the host `host.invalid`"), "{}", stderr(&output));
}

#[test]
fn the_family_can_be_chosen() {
    let output = xknock(&["localhost", "--steps", "udp/9", "-4", "-v"]);
    assert!(stderr(&output).contains("to 127.0.0.1"), "{}", stderr(&output));
}

#[test]
fn options_for_keys_and_options_for_steps_exclude_each_other() {
    let for_keys: [&[&str]; 6] = [
        &["--door", "ssh"],
        &["--keep", "--then", "true"],
        &["--close"],
        &["--for", "1m"],
        &["--address", "192.0.2.1"],
        &["--then", "true"],
    ];
    let for_steps: [&[&str]; 4] =
        [&["--steps", "udp/9"], &["9:udp"], &["--gap", "1ms"], &["--wait", "tcp/9"]];
    for keyed in for_keys {
        for steps in for_steps {
            // `--then` takes all words that follow.
            let arguments = [&["127.0.0.1"], steps, keyed].concat();
            let output = xknock(&arguments);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
            assert!(said.contains("cannot be used with"), "{arguments:?}: {said}");
        }
    }
    for arguments in [&["h", "--gap", "1ms"][..], &["h", "--wait", "tcp/9"], &["h", "--keep"]] {
        let said = stderr(&xknock(arguments));
        assert!(said.contains("required arguments were not provided"), "{arguments:?}: {said}");
    }
    let both = stderr(&xknock(&["127.0.0.1", "--steps", "udp/9", "9:udp"]));
    assert!(both.contains("cannot be used with"), "{both}");
}
