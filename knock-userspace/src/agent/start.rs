//! From a policy to a running detector and a firewall table. Whatever fails, nothing
//! stays behind: the table comes last and in one transaction, and a detector that is
//! dropped detaches itself.

use tracing::info;

use super::AgentError;
use crate::compile::{Compiled, compile};
use crate::firewall::{Firewall, Ruleset};
use crate::interfaces::{self, Interface};
use crate::kernel::{Detector, KernelError, Settings, missing_capabilities, program_name};
use crate::policy::Policy;
use crate::sockets;

/// What runs once the agent has started.
pub(super) struct Started {
    pub detector: Detector,
    pub firewall: Firewall,
    pub ruleset: Ruleset,
}

pub(super) async fn start(policy: &Policy, trace: bool) -> Result<Started, AgentError> {
    check_privileges()?;
    let interfaces = look_at(&policy.interfaces).await?;
    let compiled = compile(policy, &sockets::served()?, rand::random())?;
    let mut firewall = Firewall::open()?;
    let ruleset = Ruleset::of(policy, firewall.conntrack_in_use()?);
    let mut detector = load(policy, &compiled, trace)?;
    for Interface { name, .. } in &interfaces {
        let mode = detector.attach(name, policy.attach)?;
        info!(interface = %name, mode = %mode, "attached");
    }
    firewall.install(&ruleset)?;
    Ok(Started { detector, firewall, ruleset })
}

fn check_privileges() -> Result<(), AgentError> {
    // A kernel that does not tell will refuse later, with an error of its own.
    let missing = missing_capabilities().unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<_> =
        missing.iter().map(|(name, what_for)| format!("{name} ({what_for})")).collect();
    Err(AgentError::Privilege(missing.join(", ")))
}

/// The interfaces by name; none of them may run another XDP program.
async fn look_at(names: &[String]) -> Result<Vec<Interface>, AgentError> {
    if names.is_empty() {
        return Err(AgentError::NoInterface);
    }
    let interfaces = interfaces::inspect(names).await?;
    for interface in &interfaces {
        if let Some(id) = interface.xdp_program {
            let occupant =
                program_name(id).map_or(format!("id {id}"), |name| format!("`{name}` (id {id})"));
            let interface = interface.name.clone();
            return Err(KernelError::Occupied { interface, occupant: Some(occupant) }.into());
        }
    }
    Ok(interfaces)
}

fn load(policy: &Policy, compiled: &Compiled, trace: bool) -> Result<Detector, KernelError> {
    let settings = Settings {
        strays: policy.strays,
        max_sources: policy.max_sources,
        knocks: policy.knocks,
        trace,
        hash_key: rand::random(),
    };
    Detector::load(compiled, settings)
}
