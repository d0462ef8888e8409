use std::collections::BTreeSet;

use fleetcore::{AuditEntry, Role, Scope, TokenId, TokenRecord, UserName, UserRecord};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{RoleName, ScopeName};

/// Name and password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// Who.
    #[schema(example = "admin")]
    pub user: String,
    /// The password.
    #[schema(value_type = String, format = Password)]
    pub password: SecretString,
}

/// A login that was just made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Login {
    /// Who.
    #[schema(value_type = String)]
    pub user: UserName,
    /// The role.
    #[schema(value_type = RoleName)]
    pub role: Role,
    /// What it may do.
    #[schema(value_type = Vec<ScopeName>)]
    pub scopes: BTreeSet<Scope>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// Who.
    #[schema(value_type = String)]
    pub user: UserName,
    /// The role.
    #[schema(value_type = RoleName)]
    pub role: Role,
    /// What this request may do.
    #[schema(value_type = Vec<ScopeName>)]
    pub scopes: BTreeSet<Scope>,
    /// `login` or `token`.
    pub via: String,
    /// When the login or token ends.
    pub expires_at: Option<Timestamp>,
}

/// A new password for oneself.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    /// The password now.
    #[schema(value_type = String, format = Password)]
    pub old: SecretString,
    /// The new one, at least 12 characters.
    #[schema(value_type = String, format = Password, min_length = 12)]
    pub new: SecretString,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its public id.
    #[schema(value_type = String, format = Uuid)]
    pub id: TokenId,
    /// A name its owner chose.
    pub name: String,
    /// Its owner.
    #[schema(value_type = String)]
    pub user: UserName,
    /// What it may do, within the owner's role.
    #[schema(value_type = Vec<ScopeName>)]
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Last use, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl From<TokenRecord> for Token {
    fn from(t: TokenRecord) -> Self {
        Self {
            id: t.id,
            name: t.name,
            user: t.user,
            scopes: t.scopes,
            created_at: t.created_at,
            expires_at: t.expires_at,
            last_used_at: t.last_used_at,
        }
    }
}

/// A token that was just made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// The token.
    #[serde(flatten)]
    pub token: Token,
    /// What to send as bearer token. Shown only now.
    pub secret: String,
}

/// A token to make.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// A name to recognise it by.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// What it may do.
    #[schema(value_type = Vec<ScopeName>, min_items = 1)]
    pub scopes: BTreeSet<Scope>,
    /// How long it works. Default: until it is removed.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 316_224_000)]
    pub expires_in_s: Option<u64>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Login name.
    #[schema(value_type = String)]
    pub name: UserName,
    /// What the user may do.
    #[schema(value_type = RoleName)]
    pub role: Role,
    /// Cannot log in, and its tokens are refused.
    pub disabled: bool,
    /// When the user was made.
    pub created_at: Timestamp,
}

impl From<UserRecord> for User {
    fn from(u: UserRecord) -> Self {
        Self { name: u.name, role: u.role, disabled: u.disabled, created_at: u.created_at }
    }
}

/// A user to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// Login name.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")]
    pub name: String,
    /// What the user may do.
    #[schema(value_type = RoleName)]
    pub role: Role,
    /// The password, at least 12 characters.
    #[schema(value_type = String, format = Password, min_length = 12)]
    pub password: SecretString,
}

/// What to change about a user.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeUser {
    /// The new role.
    #[serde(default)]
    #[schema(value_type = Option<RoleName>)]
    pub role: Option<Role>,
    /// A new password; ends the user's logins.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    pub password: Option<SecretString>,
    /// Whether the user is shut out.
    #[serde(default)]
    pub disabled: Option<bool>,
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// Position in the log.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// `ok`, or the code of the error.
    pub outcome: String,
    /// More, for people.
    pub detail: String,
}

/// The audit log grew: `event: audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditNews {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
}

impl From<AuditEntry> for AuditLine {
    fn from(e: AuditEntry) -> Self {
        Self {
            seq: e.seq,
            at: e.at,
            actor: e.actor,
            action: e.action,
            target: e.target,
            outcome: e.outcome,
            detail: e.detail,
        }
    }
}
