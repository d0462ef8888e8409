//! Recognising a repeated request without keeping what was in it.

use std::{fmt, str::FromStr, sync::Arc};

use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretBox};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::{CommandSpec, Io, OnDrop, Overflow, Program, Target};
use crate::Error;

/// The key of a store's [`RequestDigest`]s. Variables of a command are secrets and often short ones: without a key,
/// whoever sees a digest could try passwords until one fits.
#[derive(Clone, Debug)]
pub struct RequestKey(Arc<SecretBox<[u8; 32]>>);

impl RequestKey {
    /// A new one, from the system's random numbers.
    pub fn generate() -> Self {
        Self::from_bytes(rand::random())
    }

    /// One that was kept.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Arc::new(SecretBox::new(Box::new(bytes))))
    }

    /// The digest of a request to run `spec` on `target`: of every setting, the values of variables included.
    pub fn digest(&self, target: &Target, spec: &CommandSpec) -> RequestDigest {
        // Fails for no length of key: HMAC hashes long ones and pads short ones.
        let Ok(mac) = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()) else {
            return RequestDigest([0; 32]);
        };
        let mut feed = Feed(mac);
        feed.request(target, spec);
        RequestDigest(feed.0.finalize().into_bytes().into())
    }
}

/// What a request was, as far as telling it from another one goes (HMAC-SHA-256 under a [`RequestKey`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestDigest([u8; 32]);

impl fmt::Display for RequestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for RequestDigest {
    type Err = Error;
    fn from_str(text: &str) -> crate::Result<Self> {
        let bad = || Error::invalid("request", "64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            let digits = text.get(at..at + 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for RequestDigest {
    type Error = Error;
    fn try_from(text: String) -> crate::Result<Self> {
        text.parse()
    }
}

impl From<RequestDigest> for String {
    fn from(digest: RequestDigest) -> Self {
        digest.to_string()
    }
}

/// Texts go in with their length before them and lists with their count, so no two requests look the same. Kept
/// digests depend on every byte of this: changing it makes repeats of older requests look like other requests.
struct Feed(Hmac<Sha256>);

impl Feed {
    fn request(&mut self, target: &Target, spec: &CommandSpec) {
        // Field by field: a setting added to the type must not be forgotten here.
        let CommandSpec {
            program,
            cwd,
            env,
            clear_env,
            user,
            io,
            timeout,
            grace,
            drain,
            replay_bytes,
            overflow,
            on_drop,
            idempotent,
            labels,
        } = spec;
        self.text("fleetcore request 1");
        self.text(&target.to_string());
        match program {
            Program::Argv(argv) => {
                self.number(0);
                self.number(argv.len() as u128);
                argv.iter().for_each(|arg| self.text(arg));
            }
            Program::Shell(script) => {
                self.number(1);
                self.text(script);
            }
            Program::Action { name, args } => {
                self.number(2);
                self.text(name);
                self.pairs(args.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            }
        }
        self.optional(cwd.as_deref());
        self.pairs(env.iter().map(|(name, value)| (name.as_str(), value.expose_secret())));
        self.number(u128::from(*clear_env));
        self.optional(user.as_deref());
        match io {
            Io::Pipes { stdin, merge } => {
                self.number(0);
                self.number(u128::from(*stdin));
                self.number(u128::from(*merge));
            }
            Io::Pty(size) => {
                self.number(1);
                self.number(u128::from(size.cols));
                self.number(u128::from(size.rows));
            }
        }
        self.number(timeout.map_or(0, |t| t.as_nanos() + 1));
        self.number(grace.as_nanos());
        self.number(drain.as_nanos());
        self.number(*replay_bytes as u128);
        self.number(match overflow {
            Overflow::DropOldest => 0,
            Overflow::Block => 1,
        });
        self.number(match on_drop {
            OnDrop::Kill => 0,
            OnDrop::Detach => 1,
        });
        self.number(u128::from(*idempotent));
        self.pairs(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    }

    fn number(&mut self, number: u128) {
        self.0.update(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u128);
        self.0.update(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.number(u128::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn pairs<'a>(&mut self, pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>) {
        self.number(pairs.len() as u128);
        for (name, value) in pairs {
            self.text(name);
            self.text(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::PtySize;

    #[test]
    fn every_setting_counts_and_nothing_runs_into_its_neighbour() {
        let key = RequestKey::generate();
        let of = |spec: CommandSpec| key.digest(&Target::local(), &spec);
        let argv = || CommandSpec::argv(["a", "b"]);
        let mut others = vec![
            argv(),
            CommandSpec::argv(["ab"]),
            CommandSpec::argv(["a", "", "b"]),
            CommandSpec::shell("a"),
            CommandSpec::argv(["a"]),
            argv().with_cwd("/"),
            argv().with_cwd(""),
            argv().with_user("/"),
            argv().with_env("K", "v"),
            argv().with_env("K", "w"),
            argv().with_env("Kv", ""),
            argv().with_label("K", "v"),
            argv().with_clear_env(),
            argv().with_stdin(),
            argv().with_io(Io::Pipes { stdin: false, merge: true }),
            argv().with_pty(PtySize::default()),
            argv().with_pty(PtySize { cols: 24, rows: 80 }),
            argv().with_timeout(Duration::ZERO),
            argv().with_timeout(Duration::from_secs(5)),
            argv().with_grace(Duration::from_secs(6)),
            argv().with_replay(1, Overflow::DropOldest),
            argv().with_replay(1, Overflow::Block),
            argv().with_on_drop(OnDrop::Detach),
            argv().with_idempotent(),
        ];
        others.push(CommandSpec { drain: Duration::from_secs(1), ..argv() });
        let digests: Vec<_> = others.into_iter().map(of).collect();
        for (n, digest) in digests.iter().enumerate() {
            assert!(!digests[..n].contains(digest), "number {n} is not told apart");
        }
        assert_eq!(of(argv()), digests[0], "the same request gives the same digest");
        let elsewhere: Target = "multipass/dev1".parse().unwrap();
        assert_ne!(key.digest(&elsewhere, &argv()), digests[0]);
        assert_ne!(RequestKey::generate().digest(&Target::local(), &argv()), digests[0]);
    }

    #[test]
    fn a_digest_survives_being_written_down_and_shows_no_key() {
        let key = RequestKey::from_bytes([7; 32]);
        let digest = key.digest(&Target::local(), &CommandSpec::argv(["true"]));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<RequestDigest>(&json).unwrap(), digest);
        for bad in ["", "00", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32)] {
            assert!(bad.parse::<RequestDigest>().is_err(), "{bad}");
        }
        assert!(!format!("{key:?}").contains('7'));
    }
}
