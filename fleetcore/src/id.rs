//! Validated names and ids. A value of these types is always well formed.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, ErrorKind, Result};

/// Longest accepted name, in bytes: the limit of a DNS name (RFC 1035, section 2.3.4).
pub const NAME_MAX_BYTES: usize = 253;

/// Checks the one grammar all names share: 1 to 253 of `A-Z a-z 0-9 - _ .`, starting with a letter or
/// digit. The first character rule keeps names from being read as options (`-rf`) or as `.` and `..`.
fn check_name(field: &'static str, name: &str) -> Result<()> {
    let rule = "1 to 253 characters of A-Z a-z 0-9 - _ . and starts with a letter or digit";
    let first_ok = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest_ok = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if first_ok && rest_ok && name.len() <= NAME_MAX_BYTES {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "name is not valid")
        .with_context("field", field)
        .with_context("value", name.chars().take(64).collect::<String>().escape_debug())
        .with_context("rule", rule))
}

macro_rules! name_type {
    ($(#[$meta:meta])* $type:ident, $field:literal) => {
        $(#[$meta])*
        ///
        /// 1 to 253 characters of `A-Z a-z 0-9 - _ .`, starting with a letter or digit.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// `InvalidInput`, naming the field and the rule.
            pub fn new(name: impl AsRef<str>) -> Result<Self> {
                let name = name.as_ref();
                check_name($field, name)?;
                Ok(Self(name.into()))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($type), self.0)
            }
        }

        impl FromStr for $type {
            type Err = Error;
            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type!(
    /// Name of a machine, unique within one provider.
    MachineId, "machine"
);
name_type!(
    /// Name of an agent, unique within one server.
    AgentId, "agent"
);
name_type!(
    /// Name of a session, unique within one server.
    SessionId, "session"
);
name_type!(
    /// Name of a user, unique within one server.
    UserName, "user"
);

/// Identifies one command for ever. The client chooses it, which makes creating a command idempotent.
///
/// [`CommandId::generate`] makes a UUIDv7, so ids sort by creation time; any UUID but the nil one is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandId(Uuid);

impl CommandId {
    /// A fresh id; ids made later in one process sort after earlier ones.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id as a UUID.
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for CommandId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for CommandId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let id = Uuid::try_parse(text).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, "command id is not a UUID")
                .with_context("field", "id")
                .with_context("rule", "a UUID such as 0190f1c2-7b1e-7c3a-9d55-0242ac120002")
                .with_source(e)
        })?;
        Ok(Self(id))
    }
}

/// Identifies an API token or a login; it is not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(Uuid);

impl TokenId {
    /// A fresh id.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for TokenId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Uuid::try_parse(text).map(Self).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, "token id is not a UUID")
                .with_context("field", "id")
                .with_source(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_options_or_paths_are_refused() {
        for bad in ["", "-rf", ".", "..", "a/b", "a b", "ü", "a\0", &"x".repeat(254)] {
            let err = MachineId::new(bad).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
        for good in ["a", "dev-1", "web.example_2", &"x".repeat(253)] {
            assert!(MachineId::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn ids_sort_by_creation() {
        let ids: Vec<_> = (0..100).map(|_| CommandId::generate()).collect();
        assert!(ids.is_sorted());
    }
}
