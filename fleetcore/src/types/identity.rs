//! Who may do what, and what they did.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, TokenId, UserName};

/// What a user may do. Each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Sees targets, records and output.
    Viewer,
    /// Also runs commands, opens sessions and writes files.
    Operator,
    /// Also manages users, tokens of others and the audit log.
    Admin,
}

impl Role {
    /// Scopes the role grants.
    pub fn scopes(self) -> BTreeSet<Scope> {
        let mut scopes = BTreeSet::from([Scope::Read]);
        if self >= Self::Operator {
            scopes.extend([Scope::Run, Scope::Files, Scope::Machines, Scope::Tunnels]);
        }
        if self >= Self::Admin {
            scopes.insert(Scope::Admin);
        }
        scopes
    }

    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|r| r.as_str() == text).ok_or_else(
            || {
                Error::new(ErrorKind::InvalidInput, "no such role")
                    .with_context("field", "role")
                    .with_context("rule", "viewer, operator or admin")
            },
        )
    }
}

/// One power of an API token. A token can do what both its scopes and its owner's role allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scope {
    /// Targets, records, output, screens.
    Read,
    /// Commands and sessions.
    Run,
    /// Reading and writing files.
    Files,
    /// Life of machines.
    Machines,
    /// Connections to addresses that targets can reach.
    Tunnels,
    /// Users, tokens, audit.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Run, Self::Files, Self::Machines, Self::Tunnels, Self::Admin];

    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Files => "files",
            Self::Machines => "machines",
            Self::Tunnels => "tunnels",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "no such scope")
                .with_context("field", "scopes")
                .with_context("rule", "read, run, files, machines, tunnels or admin")
        })
    }
}

/// A person or program with a password.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UserRecord {
    /// Login name.
    pub name: UserName,
    /// What the user may do.
    pub role: Role,
    /// Argon2id in PHC string form.
    pub password_hash: SecretString,
    /// A disabled user cannot log in and its tokens are refused.
    pub disabled: bool,
    /// When the user was made.
    pub created_at: Timestamp,
}

impl UserRecord {
    /// A new, enabled user.
    pub fn new(name: UserName, role: Role, password_hash: SecretString, created_at: Timestamp) -> Self {
        Self { name, role, password_hash, disabled: false, created_at }
    }
}

/// What a stored token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenKind {
    /// Made by a user for a program.
    Api,
    /// Made by logging in with a password (a browser's cookie).
    Login,
}

/// A token as it is stored: the secret itself is never kept, only its SHA-256.
///
/// A plain hash is enough because the secret has 256 random bits; passwords use argon2id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRecord {
    /// Its public id.
    pub id: TokenId,
    /// What it is for.
    pub kind: TokenKind,
    /// A name its owner chose.
    pub name: String,
    /// Its owner.
    pub user: UserName,
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    /// What it may do, within the owner's role.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Last use, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl TokenRecord {
    /// A token that was just made.
    pub fn new(
        kind: TokenKind,
        name: impl Into<String>,
        user: UserName,
        secret_sha256: [u8; 32],
        scopes: BTreeSet<Scope>,
        created_at: Timestamp,
    ) -> Self {
        let id = TokenId::generate();
        let name = name.into();
        Self { id, kind, name, user, secret_sha256, scopes, created_at, expires_at: None, last_used_at: None }
    }

    /// Sets when it stops working.
    #[must_use]
    pub fn with_expires_at(mut self, at: Option<Timestamp>) -> Self {
        self.expires_at = at;
        self
    }
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Position in the log; the store sets it.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Who did it.
    pub actor: String,
    /// What was done, e.g. `command.create`.
    pub action: String,
    /// To what.
    pub target: String,
    /// `ok`, or the code of the error.
    pub outcome: String,
    /// More, for people; never a secret.
    pub detail: String,
}

impl AuditEntry {
    /// An entry dated now. `outcome` is `ok` or an error code.
    pub fn new(
        actor: impl Into<String>,
        action: impl Into<String>,
        target: impl Into<String>,
        outcome: &str,
    ) -> Self {
        Self {
            seq: 0,
            at: Timestamp::now(),
            actor: actor.into(),
            action: action.into(),
            target: target.into(),
            outcome: outcome.to_owned(),
            detail: String::new(),
        }
    }

    /// Adds a text for people.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

/// Restricts a read of the audit log; newest entries first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditFilter {
    /// Only by this actor.
    pub actor: Option<String>,
    /// Only this action, or all that begin with it when it ends in `.`.
    pub action: Option<String>,
    /// Only entries older than this one.
    pub before: Option<u64>,
    /// At most this many; 0 means the store's default of 100.
    pub limit: usize,
}
