//! The master's flags and environment.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use fleetcore::{Provider, Result, UserName};
use futures::future::BoxFuture;
use secrecy::SecretString;

use super::{agents::Enrolment, provider::AgentVms, server};
use crate::{
    ServerConfig,
    compat::{
        Call, Dialect, Host, Plan, Refusal, Service,
        args::{Flag, Parsed, Program},
    },
};

/// Port of the originals.
const PORT: u16 = 8000;
/// Longest file with keys or a password.
const FILE_MAX: u64 = 1 << 20;

static FLAGS: &[Flag] = &[
    Flag {
        name: "host",
        value: Some("ADDR"),
        env: &["HOST"],
        help: "Address to listen on; 0.0.0.0 for all, as the originals do [default: 127.0.0.1]",
    },
    Flag { name: "port", value: Some("N"), env: &["PORT"], help: "Port to listen on [default: 8000]" },
    Flag {
        name: "ui-dir",
        value: Some("DIR"),
        env: &["BATWA_UI_DIR"],
        help: "Directory with Batwa's templates/ and static/ [default: the working directory, if they are there]",
    },
    Flag {
        name: "user",
        value: Some("NAME"),
        env: &["BATWA_USER"],
        help: "Who logs in; made at the first start [default: admin]",
    },
    Flag {
        name: "password-file",
        value: Some("FILE"),
        env: &["BATWA_PASSWORD_FILE"],
        help: "First password of that user, in the first line; or set BATWA_PASSWORD [default: random, printed once]",
    },
    Flag {
        name: "enrol-key-file",
        value: Some("FILE"),
        env: &["BATWA_ENROL_KEY_FILE"],
        help: "Keys agents register with: lines KEY (any agent) or ID=KEY (this one); or set BATWA_ENROL_KEY \
               [default: random, printed once]",
    },
    Flag {
        name: "open-enrolment",
        value: None,
        env: &["BATWA_OPEN_ENROLMENT"],
        help: "Let any agent register under an id that is not taken, without a key, as the originals do",
    },
    Flag {
        name: "allow-origin",
        value: Some("URL[,URL]"),
        env: &["BATWA_ALLOW_ORIGIN"],
        help: "Web sites whose pages may use this server with the visitor's login",
    },
    Flag {
        name: "behind-proxy",
        value: None,
        env: &["BATWA_BEHIND_PROXY"],
        help: "A proxy with TLS on this host is in front: cookies are Secure, its forwarded headers count",
    },
    Flag {
        name: "multipass",
        value: Some("PROGRAM"),
        env: &["BATWA_MULTIPASS"],
        help: "The multipass program [default: multipass, found through PATH]",
    },
    Flag {
        name: "data-dir",
        value: Some("DIR"),
        env: &["BATWA_DATA_DIR"],
        help: "Where users, agents and the audit log are kept [default: below fleetcore's data directory]",
    },
];

const PROGRAM: Program =
    Program { about: "Batwa's master: web UI and API over Multipass here and on agents.", flags: FLAGS };

/// The master.
pub(crate) static SERVER: Master = Master;

/// See [`SERVER`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Master;

/// How the master runs.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) listen: SocketAddr,
    pub(super) ui_dir: Option<PathBuf>,
    pub(super) user: UserName,
    pub(super) password: Option<SecretString>,
    pub(super) enrolment: Enrolment,
    pub(super) allowed_origins: Vec<String>,
    pub(super) behind_proxy: bool,
    pub(super) multipass: String,
    data_dir: Option<PathBuf>,
    /// Another server of this process has its own users.
    pub(super) further: bool,
    /// Machines of agents, for the fleet.
    pub(super) agent_vms: AgentVms,
}

impl Dialect for Master {
    fn name(&self) -> &'static str {
        "batwa-server"
    }
    fn aliases(&self) -> &'static [&'static str] {
        &["batwa-master"]
    }
    fn about(&self) -> &'static str {
        "Batwa's master: web UI and API, agents, terminals"
    }
    fn parse(&self, call: &Call) -> Result<Box<dyn Plan>, Refusal> {
        let flags = PROGRAM.parse(call)?;
        let host = flags.value::<IpAddr>("host", "address")?.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let port = flags.value::<u16>("port", "int")?.unwrap_or(PORT);
        let user = flags.get("user").unwrap_or("admin");
        let user = UserName::new(user).map_err(|e| flags.refuse("user", e.message()))?;
        let ui_dir = match flags.get("ui-dir").map(PathBuf::from) {
            Some(dir) if !dir.join("templates").is_dir() => {
                return Err(flags.refuse("ui-dir", "no templates/ in this directory"));
            }
            Some(dir) => Some(dir),
            None => std::env::current_dir().ok().filter(|d| d.join("templates/index.html").is_file()),
        };
        let options = Options {
            listen: call.listen.unwrap_or(SocketAddr::new(host, port)),
            ui_dir,
            user,
            password: password(&flags, call)?,
            enrolment: enrolment(&flags, call)?,
            allowed_origins: flags
                .get("allow-origin")
                .into_iter()
                .flat_map(|all| all.split(','))
                .map(|o| o.trim().trim_end_matches('/').to_ascii_lowercase())
                .filter(|o| !o.is_empty())
                .collect(),
            behind_proxy: flags.on("behind-proxy")?,
            multipass: flags.get("multipass").unwrap_or("multipass").to_owned(),
            data_dir: flags.get("data-dir").map(PathBuf::from),
            further: call.listen.is_some(),
            agent_vms: AgentVms::default(),
        };
        if options.allowed_origins.iter().any(|o| !o.contains("://")) {
            return Err(flags.refuse("allow-origin", "expected URLs such as https://ui.example"));
        }
        Ok(Box::new(options))
    }
}

impl Plan for Options {
    fn config(&self) -> ServerConfig {
        let mut config = ServerConfig::on(self.listen);
        config.behind_proxy = self.behind_proxy;
        config
    }
    fn data_dir(&self) -> Option<PathBuf> {
        self.data_dir.clone()
    }
    fn keeps_records(&self) -> bool {
        true
    }
    fn providers(&self) -> Vec<Arc<dyn Provider>> {
        vec![Arc::new(self.agent_vms.clone())]
    }
    fn start(self: Box<Self>, host: Host) -> BoxFuture<'static, Result<Service>> {
        Box::pin(server::start(*self, host))
    }
}

/// The text of a file a flag names.
pub(super) fn read_file(flags: &Parsed, flag: &str) -> Result<Option<SecretString>, Refusal> {
    let Some(path) = flags.get(flag) else { return Ok(None) };
    let cannot = |e: &dyn std::fmt::Display| flags.refuse(flag, &format!("cannot read '{path}': {e}"));
    let size = std::fs::metadata(path).map_err(|e| cannot(&e))?.len();
    if size > FILE_MAX {
        return Err(cannot(&"it is too large"));
    }
    std::fs::read_to_string(path).map(|text| Some(SecretString::from(text))).map_err(|e| cannot(&e))
}

/// Its first line, which must not be empty.
pub(super) fn first_line(flags: &Parsed, flag: &str) -> Result<Option<SecretString>, Refusal> {
    use secrecy::ExposeSecret as _;
    let Some(text) = read_file(flags, flag)? else { return Ok(None) };
    match text.expose_secret().lines().next().map(str::trim_end).filter(|l| !l.is_empty()) {
        Some(line) => Ok(Some(line.into())),
        None => Err(flags.refuse(flag, "the first line is empty")),
    }
}

fn variable(call: &Call, names: &[&str]) -> Option<SecretString> {
    let set = names.iter().filter_map(|name| call.env.get(*name));
    set.map(String::as_str).find(|v| !v.is_empty()).map(SecretString::from)
}

fn password(flags: &Parsed, call: &Call) -> Result<Option<SecretString>, Refusal> {
    let file = first_line(flags, "password-file")?;
    Ok(file.or_else(|| variable(call, &["BATWA_PASSWORD", "FLEETCORE_ADMIN_PASSWORD"])))
}

fn enrolment(flags: &Parsed, call: &Call) -> Result<Enrolment, Refusal> {
    use secrecy::ExposeSecret as _;
    let open = flags.on("open-enrolment")?;
    let mut all = Enrolment { shared: variable(call, &["BATWA_ENROL_KEY"]), own: BTreeMap::new(), open };
    let Some(text) = read_file(flags, "enrol-key-file")? else { return Ok(all) };
    for line in text.expose_secret().lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.split_once('=') {
            // Keys in base64 may end in equals signs.
            Some((id, key)) if !id.is_empty() && !key.trim_matches('=').is_empty() => {
                all.own.insert(id.trim().to_owned(), key.trim().into());
            }
            _ => all.shared = Some(line.into()),
        }
    }
    if all.shared.is_none() && all.own.is_empty() {
        return Err(flags.refuse("enrol-key-file", "there is no key in it"));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<String, Refusal> {
        let call = Call::new("batwa-server").with_args(args.to_vec()).with_env(env.to_vec());
        SERVER.parse(&call).map(|plan| plan.config().listen.to_string())
    }

    #[test]
    fn the_original_environment_and_a_safe_default() {
        assert_eq!(parse(&[], &[]).unwrap(), "127.0.0.1:8000");
        assert_eq!(parse(&[], &[("PORT", "9000"), ("HOST", "0.0.0.0")]).unwrap(), "0.0.0.0:9000");
        assert_eq!(parse(&["--port=1"], &[("PORT", "9000")]).unwrap(), "127.0.0.1:1");
        for bad in [
            &["--port", "x"][..],
            &["--host", "x"],
            &["--user", "a b"],
            &["--ui-dir", "/nowhere"],
            &["--allow-origin", "x"],
        ] {
            assert_eq!(parse(bad, &[]).unwrap_err().code, 2, "{bad:?}");
        }
        let call = Call::new("x").with_env([("PORT", "1")]).with_listen("127.0.0.1:5".parse().unwrap());
        assert_eq!(SERVER.parse(&call).unwrap().config().listen.port(), 5);
    }

    #[test]
    fn keys_of_agents() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, "# ours\nc2hhcmVk==\nlab-2=own=\n").unwrap();
        let call = Call::new("x").with_args(["--enrol-key-file", file.to_str().unwrap()]);
        let flags = PROGRAM.parse(&call).unwrap();
        let keys = enrolment(&flags, &call).unwrap();
        assert_eq!(keys.shared.unwrap().expose_secret(), "c2hhcmVk==");
        assert_eq!(keys.own["lab-2"].expose_secret(), "own=");
        assert!(!keys.open);
        std::fs::write(&file, "\n").unwrap();
        assert!(enrolment(&flags, &call).is_err());
    }
}
