//! Who is calling, and what they may do.

mod csrf;
mod extract;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod limits;
mod login;
mod password;
mod token;

pub use login::ensure_admin;

#[cfg(feature = "client")]
pub(crate) use csrf::called_as;
pub(crate) use csrf::{check_origin, host_allowed};
#[cfg(feature = "mcp")]
pub(crate) use extract::bearer;
pub(crate) use extract::{
    Actor, Audit, AuditSlot, CanAdmin, CanFiles, CanMachines, CanRead, CanRun, CanTunnel, Optional,
    StreamPass,
};
pub(crate) use limits::{Permit, Quotas};
pub(crate) use login::{COOKIE, LoginLimiter, check_new_password, clear_cookie, log_in, login_cookie};
pub(crate) use password::Passwords;
pub(crate) use token::{Identity, Lease, TokenCache, Via, new_token};
