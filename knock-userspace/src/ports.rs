//! The report of `xknockd ports`. It puts every guarded and every listening port into one of four
//! states: open or closed at the firewall, with or without an application. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use knock_firewall::Status;
use knock_policy::{Grant, Mode, Service};
use serde::Serialize;

/// One port as a source finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Protocol and port, `tcp/22`.
    pub service: String,
    /// Whether the guard lets packets to it through.
    pub firewall: Verdict,
    /// Whether an application listens.
    pub application: Application,
    /// Why the guard does what it does.
    pub reason: VerdictReason,
    /// The program that listens, if its name is known.
    pub program: Option<String>,
    /// How many grants run on it, of all sources.
    pub grants: usize,
}

/// What the guard does with packets to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Lets packets through.
    Open,
    /// Drops them.
    Closed,
}

/// Whether an application listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Application {
    /// One does.
    Listening,
    /// None does in this network namespace. A published container port may still lead to one.
    None,
}

/// Why the guard does what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictReason {
    /// No door opens it.
    Unguarded,
    /// It is guarded, but the mode is `observe`.
    Observed,
    /// The source is always allowed.
    Allowed,
    /// The source has a grant.
    Granted,
    /// It is guarded, and the source has no grant.
    Guarded,
}

/// Merges what the firewall holds with what listens, as the source `from` finds it. Without one, a
/// stranger is meant. Without a table nothing is guarded.
pub fn ports(
    status: Option<&Status>,
    listening: &[(Service, Option<String>)],
    from: Option<IpAddr>,
) -> Vec<Port> {
    let mut applications: BTreeMap<Service, Option<Option<String>>> = BTreeMap::new();
    for service in status.iter().flat_map(|status| &status.guarded) {
        applications.insert(*service, None);
    }
    for (service, program) in listening {
        let known = applications.entry(*service).or_default().get_or_insert_default();
        *known = known.take().or_else(|| program.clone());
    }
    applications
        .into_iter()
        .map(|(service, application)| {
            let reason =
                status.map_or(VerdictReason::Unguarded, |status| reason(status, service, from));
            let grants = status.map_or(0, |status| {
                status.grants.iter().filter(|timed| timed.grant.service == service).count()
            });
            Port {
                service: service.to_string(),
                firewall: match reason {
                    VerdictReason::Guarded => Verdict::Closed,
                    _ => Verdict::Open,
                },
                application: match application {
                    Some(_) => Application::Listening,
                    None => Application::None,
                },
                reason,
                program: application.flatten(),
                grants,
            }
        })
        .collect()
}

fn reason(status: &Status, service: Service, from: Option<IpAddr>) -> VerdictReason {
    if !status.guarded.contains(&service) {
        return VerdictReason::Unguarded;
    }
    if let Some(source) = from {
        if status.always_allow.iter().any(|prefix| prefix.contains(&source)) {
            return VerdictReason::Allowed;
        }
        let grant = Grant { source, service };
        if status.grants.iter().any(|timed| timed.grant == grant) {
            return VerdictReason::Granted;
        }
    }
    match status.mode {
        Mode::Observe => VerdictReason::Observed,
        Mode::Enforce => VerdictReason::Guarded,
    }
}

/// Formats the ports as a table of text.
pub fn table(ports: &[Port], from: Option<IpAddr>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["PORT", "FIREWALL", "APPLICATION", "WHY", "GRANTS"]);
    for port in ports {
        let application = match (port.application, &port.program) {
            (Application::Listening, Some(program)) => format!("listening ({program})"),
            (Application::Listening, None) => "listening".into(),
            (Application::None, _) => "none".into(),
        };
        let (firewall, why) = match (port.firewall, port.reason) {
            (Verdict::Closed, _) => ("closed", "guarded, no grant"),
            (Verdict::Open, VerdictReason::Observed) => ("open", "guarded, but only observing"),
            (Verdict::Open, VerdictReason::Granted) => ("open", "this source has a grant"),
            (Verdict::Open, VerdictReason::Allowed) => ("open", "this source is always allowed"),
            (Verdict::Open, _) => ("open", "not guarded"),
        };
        table.add_row([&port.service, firewall, &application, why, &port.grants.to_string()]);
    }
    let who = from.map_or("a stranger".into(), |source| source.to_string());
    format!("As {who} finds them, on the guarded interfaces:\n{}\n", table.trim_fmt())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use knock_common::sequence::Protocol;

    use super::*;
    use knock_firewall::TimedGrant;

    const SSH: Service = Service::new(Protocol::Tcp, 22);
    const WEB: Service = Service::new(Protocol::Tcp, 80);
    const WIREGUARD: Service = Service::new(Protocol::Udp, 51820);

    fn status(mode: Mode) -> Status {
        let grant = Grant { source: "192.0.2.7".parse().unwrap(), service: SSH };
        Status {
            mode,
            trial_until: None,
            guarded: vec![SSH, WIREGUARD],
            interfaces: vec!["eth0".into()],
            always_allow: vec!["198.51.100.0/24".parse().unwrap()],
            grants: vec![TimedGrant { grant, until: Duration::from_secs(9) }],
            refused_packets: 0,
            refused_bytes: 0,
        }
    }

    fn find(ports: &[Port], service: Service) -> (Verdict, Application, VerdictReason) {
        let port = ports.iter().find(|port| port.service == service.to_string()).unwrap();
        (port.firewall, port.application, port.reason)
    }

    #[test]
    fn all_four_states_are_told_apart() {
        let listening = [(SSH, Some("sshd".into())), (WEB, None)];
        let seen = ports(Some(&status(Mode::Enforce)), &listening, None);
        assert_eq!(
            find(&seen, SSH),
            (Verdict::Closed, Application::Listening, VerdictReason::Guarded)
        );
        assert_eq!(
            find(&seen, WIREGUARD),
            (Verdict::Closed, Application::None, VerdictReason::Guarded)
        );
        assert_eq!(
            find(&seen, WEB),
            (Verdict::Open, Application::Listening, VerdictReason::Unguarded)
        );
        let client = "192.0.2.7".parse().ok();
        let nothing_listens = ports(Some(&status(Mode::Enforce)), &[], client);
        assert_eq!(
            find(&nothing_listens, SSH),
            (Verdict::Open, Application::None, VerdictReason::Granted)
        );
    }

    #[test]
    fn each_source_finds_its_own_state() {
        let of =
            |from: &str| find(&ports(Some(&status(Mode::Enforce)), &[], from.parse().ok()), SSH).2;
        assert_eq!(of("192.0.2.7"), VerdictReason::Granted);
        assert_eq!(of("192.0.2.8"), VerdictReason::Guarded);
        assert_eq!(of("198.51.100.1"), VerdictReason::Allowed);
    }

    #[test]
    fn observing_leaves_everything_open_and_says_so() {
        let seen = ports(Some(&status(Mode::Observe)), &[], None);
        assert_eq!(find(&seen, SSH), (Verdict::Open, Application::None, VerdictReason::Observed));
        assert!(table(&seen, None).contains("only observing"));
    }

    #[test]
    fn without_a_table_nothing_is_guarded() {
        let seen = ports(None, &[(SSH, None)], None);
        assert_eq!(
            find(&seen, SSH),
            (Verdict::Open, Application::Listening, VerdictReason::Unguarded)
        );
    }
}
