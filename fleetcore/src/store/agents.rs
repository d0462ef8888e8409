//! The rules of leases, as pure functions every store shares.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    AgentId, AgentInfo, AgentRegistration, AgentReport, Error, ErrorKind, Labels, Lease, RegistryEvent,
    Result,
};

/// The agent after a registration with a fresh `epoch`.
pub(super) fn registered(
    agent: AgentRegistration,
    epoch: u64,
    ttl: Duration,
    now: Timestamp,
    before: Option<&AgentInfo>,
) -> Result<AgentInfo> {
    let lease = Lease::new(agent.id.clone(), epoch, ttl, expiry(now, ttl)?);
    let mut info = AgentInfo::new(agent, lease, now);
    info.revision = before.map_or(1, |b| b.revision + 1);
    Ok(info)
}

/// The agent after a heartbeat, and what watchers are told, if anything.
pub(super) fn heartbeat(
    info: &AgentInfo,
    lease: &Lease,
    report: AgentReport,
    now: Timestamp,
) -> Result<(AgentInfo, Option<RegistryEvent>)> {
    check(info, lease)?;
    let mut next = info.clone();
    next.lease.expires_at = expiry(now, info.lease.ttl)?;
    next.online = true;
    next.last_seen = now;
    next.revision += 1;
    let news = next.report != report;
    next.report = report;
    let event = match (info.online, news) {
        (false, _) => Some(RegistryEvent::Online(next.clone())),
        (true, true) => Some(RegistryEvent::Updated(next.clone())),
        (true, false) => None,
    };
    Ok((next, event))
}

/// The agent once its lease has run out; `None` if it holds or the agent is offline already.
pub(super) fn expired(info: &AgentInfo, now: Timestamp) -> Option<AgentInfo> {
    (info.online && info.lease.expires_at < now).then(|| {
        let mut next = info.clone();
        next.online = false;
        next.revision += 1;
        next
    })
}

/// `Conflict` unless the lease is the current one.
pub(super) fn check(info: &AgentInfo, lease: &Lease) -> Result<()> {
    if info.lease.epoch == lease.epoch {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "a newer registration of this agent holds the lease")
        .with_context("agent", &lease.agent)
        .with_context("epoch", lease.epoch)
        .with_context("current_epoch", info.lease.epoch))
}

pub(super) fn absent(id: &AgentId) -> Error {
    Error::new(ErrorKind::NotFound, "no such agent").with_context("agent", id)
}

/// Whether `have` holds all of `want`.
pub(super) fn carries(have: &Labels, want: &Labels) -> bool {
    want.iter().all(|(k, v)| have.get(k) == Some(v))
}

fn expiry(now: Timestamp, ttl: Duration) -> Result<Timestamp> {
    let rule = || Error::invalid("ttl", "longer than zero and within the calendar");
    if ttl.is_zero() {
        return Err(rule());
    }
    let ttl = SignedDuration::try_from(ttl).map_err(|e| rule().with_source(e))?;
    now.checked_add(ttl).map_err(|e| rule().with_source(e))
}
