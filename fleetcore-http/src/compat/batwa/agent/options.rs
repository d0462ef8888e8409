//! The agent's flags and environment.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleetcore::Result;
use futures::future::BoxFuture;
use secrecy::SecretString;

use super::{heart, routes};
use crate::{
    ServerConfig,
    compat::{
        Call, Dialect, Host, Plan, Refusal, Service,
        args::{Flag, Program},
        batwa::{checks, options::first_line, vms::Vms},
    },
};

/// Port of the originals.
const PORT: u16 = 8001;
/// Seconds between heartbeats in the originals.
const INTERVAL_S: u64 = 30;
/// What the script of the originals calls itself; it has defaults of its own.
const SCRIPT: &str = "start_agent.sh";

/// What that script says when the program is not there.
const NO_MULTIPASS: &str =
    "Error: multipass is not installed\nPlease install multipass: https://multipass.run/\n";

static FLAGS: &[Flag] = &[
    Flag {
        name: "agent-id",
        value: Some("ID"),
        env: &["AGENT_ID"],
        help: "Unique identifier for this agent (required)",
    },
    Flag {
        name: "api-key",
        value: Some("KEY"),
        env: &["API_KEY"],
        help: "API key; other users of this host see it in the list of processes, so rather use --api-key-file",
    },
    Flag {
        name: "api-key-file",
        value: Some("FILE"),
        env: &["API_KEY_FILE"],
        help: "File with the API key in its first line",
    },
    Flag {
        name: "master-url",
        value: Some("URL"),
        env: &["MASTER_URL"],
        help: "URL of the master server (e.g., http://master:8000); without it nothing is registered",
    },
    Flag { name: "port", value: Some("N"), env: &["AGENT_PORT"], help: "Port to listen on (default: 8001)" },
    Flag {
        name: "host",
        value: Some("ADDR"),
        env: &["AGENT_HOST"],
        help: "Address to listen on (default: 0.0.0.0)",
    },
    Flag {
        name: "heartbeat-interval",
        value: Some("S"),
        env: &["HEARTBEAT_INTERVAL"],
        help: "Heartbeat interval in seconds (default: 30)",
    },
    Flag {
        name: "advertise-url",
        value: Some("URL"),
        env: &["ADVERTISE_URL"],
        help: "Where the master reaches this agent [default: the address towards the master]",
    },
    Flag {
        name: "open-execute",
        value: None,
        env: &["BATWA_OPEN_EXECUTE"],
        help: "Without a key, let other hosts use /api/execute too, as the originals do",
    },
    Flag {
        name: "execute-any",
        value: None,
        env: &["BATWA_EXECUTE_ANY"],
        help: "Let /api/execute run every multipass command, mounts of this host's files included, as the originals do",
    },
    Flag {
        name: "multipass",
        value: Some("PROGRAM"),
        env: &["BATWA_MULTIPASS"],
        help: "The multipass program [default: multipass, found through PATH]",
    },
];

const PROGRAM: Program = Program { about: "Batwa Agent Server", flags: FLAGS };

/// The agent.
pub(crate) static AGENT: AgentDialect = AgentDialect;

/// See [`AGENT`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct AgentDialect;

/// How the agent runs.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) listen: SocketAddr,
    pub(super) id: String,
    pub(super) key: Option<SecretString>,
    pub(super) master: Option<String>,
    pub(super) interval: Duration,
    advertise: Option<String>,
    pub(super) open_execute: bool,
    pub(super) execute_any: bool,
    multipass: String,
}

impl Dialect for AgentDialect {
    fn name(&self) -> &'static str {
        "batwa-agent"
    }
    fn aliases(&self) -> &'static [&'static str] {
        &["agent_main.py", SCRIPT]
    }
    fn about(&self) -> &'static str {
        "Batwa's agent: Multipass of this host for a master"
    }
    fn parse(&self, call: &Call) -> Result<Box<dyn Plan>, Refusal> {
        let flags = PROGRAM.parse(call)?;
        let script = call.name == SCRIPT;
        let id = match flags.get("agent-id") {
            Some(id) => id.to_owned(),
            None if script => format!("agent-{}", hostname()),
            None => return Err(flags.missing("agent-id")),
        };
        if checks::word("agent id", &id).is_err() {
            return Err(flags.refuse("agent-id", "1 to 64 letters, digits, '.', '_' and '-'"));
        }
        let key = match (flags.get("api-key"), first_line(&flags, "api-key-file")?) {
            // One that is there and empty would mean no key here and a key there.
            (Some(key), _) if key.trim().is_empty() => {
                return Err(flags.refuse("api-key", "the key is empty"));
            }
            (Some(key), _) => Some(SecretString::from(key)),
            (None, file) => file,
        };
        let multipass = flags.get("multipass").unwrap_or("multipass").to_owned();
        if script && !installed(&multipass, call.env.get("PATH")) {
            return Err(Refusal::new(1, NO_MULTIPASS));
        }
        let host = flags.value::<IpAddr>("host", "address")?.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let port = flags.value::<u16>("port", "int")?.unwrap_or(PORT);
        let seconds = flags.value::<u64>("heartbeat-interval", "int")?.unwrap_or(INTERVAL_S);
        if !(1..=86_400).contains(&seconds) {
            return Err(flags.refuse("heartbeat-interval", "1 to 86400 seconds"));
        }
        let url = |flag: &'static str| match flags.get(flag).map(str::trim).filter(|u| !u.is_empty()) {
            None => Ok(None),
            Some(text) => match url::Url::parse(text) {
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                    Ok(Some(text.trim_end_matches('/').to_owned()))
                }
                _ => Err(flags.refuse(flag, "expected http://HOST:PORT")),
            },
        };
        let master = match url("master-url")? {
            None if script => Some("http://localhost:8000".to_owned()),
            given => given,
        };
        Ok(Box::new(Options {
            listen: call.listen.unwrap_or(SocketAddr::new(host, port)),
            id,
            key,
            master,
            interval: Duration::from_secs(seconds),
            advertise: url("advertise-url")?,
            open_execute: flags.on("open-execute")?,
            execute_any: flags.on("execute-any")?,
            multipass,
        }))
    }
}

impl Plan for Options {
    fn config(&self) -> ServerConfig {
        ServerConfig::on(self.listen)
    }
    fn data_dir(&self) -> Option<PathBuf> {
        None
    }
    fn keeps_records(&self) -> bool {
        false
    }
    fn start(self: Box<Self>, host: Host) -> BoxFuture<'static, Result<Service>> {
        Box::pin(async move {
            let open = !host.address.ip().to_canonical().is_loopback();
            if self.key.is_none() && open {
                tracing::warn!(
                    address = %host.address,
                    "no API key: whoever reaches this address controls the VMs of this host; give one with \
                     --api-key-file"
                );
            }
            let vms = Vms::new(host.app.fleet().clone(), self.multipass.as_str());
            let agent = Arc::new(routes::Agent::new(host.app.clone(), &self, vms));
            if let Some(master) = self.master.clone() {
                let url = self.advertise.clone().unwrap_or_else(|| advertised(&master, host.address));
                host.app.tasks().spawn(heart::beat(agent.clone(), *self, master, url));
            }
            Ok(Service::new(routes::router(agent)))
        })
    }
}

/// Whether there is such a program.
fn installed(program: &str, path: Option<&String>) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    path.is_some_and(|path| std::env::split_paths(path).any(|dir| dir.join(program).is_file()))
}

/// What this host calls itself.
pub(super) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let name = if name.is_empty() { std::env::var("HOSTNAME").unwrap_or_default() } else { name.to_owned() };
    let good: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(64).collect();
    if good.is_empty() { "localhost".to_owned() } else { good }
}

/// The address this host has towards the master, or else towards the world; nothing is sent to find out.
fn advertised(master: &str, listening: SocketAddr) -> String {
    let towards = |to: &[SocketAddr]| {
        let any: SocketAddr = if to.first()?.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let master = url::Url::parse(master).ok().and_then(|u| u.socket_addrs(|| None).ok()).unwrap_or_default();
    let ip = if listening.ip().is_unspecified() {
        towards(&master)
            .or_else(|| towards(&[SocketAddr::from((Ipv4Addr::new(8, 8, 8, 8), 80))]))
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    } else {
        listening.ip()
    };
    format!("http://{}", SocketAddr::new(ip, listening.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, args: &[&str], env: &[(&str, &str)]) -> Result<String, Refusal> {
        let call = Call::new(name).with_args(args.to_vec()).with_env(env.to_vec());
        AGENT.parse(&call).map(|plan| format!("{plan:?}"))
    }

    #[test]
    fn the_command_the_original_page_shows() {
        let plan =
            parse("batwa-agent", &["--agent-id=my-agent", "--master-url=http://m:8000/"], &[]).unwrap();
        for part in ["my-agent", "0.0.0.0:8001", "Some(\"http://m:8000\")", "interval: 30s"] {
            assert!(plan.contains(part), "{part}: {plan}");
        }
    }

    #[test]
    fn the_variables_of_the_script_are_never_evaluated() {
        let env = [
            ("AGENT_ID", "envagent"),
            ("API_KEY", "secret-key"),
            ("MASTER_URL", "http://127.0.0.1:8000"),
            ("AGENT_PORT", "8005"),
            ("AGENT_HOST", "127.0.0.1"),
            ("HEARTBEAT_INTERVAL", "5"),
        ];
        let plan = parse("batwa-agent", &[], &env).unwrap();
        for part in ["envagent", "127.0.0.1:8005", "interval: 5s"] {
            assert!(plan.contains(part), "{part}: {plan}");
        }
        assert!(!plan.contains("secret-key"), "{plan}");
        assert!(parse("batwa-agent", &["--agent-id", "flag"], &env).unwrap().contains("\"flag\""));
        assert_eq!(parse("batwa-agent", &[], &[("AGENT_ID", "x$(echo INJECTED >&2)")]).unwrap_err().code, 2);
        let plan = parse("start_agent.sh", &["--multipass", "/bin/sh"], &[("API_KEY", "")]).unwrap();
        assert!(plan.contains(&format!("agent-{}", hostname())) && plan.contains("localhost:8000"), "{plan}");
        assert_eq!(parse("start_agent.sh", &[], &[("PATH", "/nonexistent")]).unwrap_err().code, 1);
    }

    #[test]
    fn what_is_missing_or_wrong_is_said_with_code_2() {
        for (args, says) in [
            (&[][..], "the following arguments are required: --agent-id"),
            (&["--agent-id"], "expected one argument"),
            (&["--agent-id", "a", "--port", "abc"], "invalid int value: 'abc'"),
            (&["--agent-id", "a", "--bogus"], "unrecognized arguments: --bogus"),
            (&["--agent-id", "a", "--api-key="], "the key is empty"),
            (&["--agent-id", "a b"], "argument --agent-id"),
            (&["--agent-id", "a", "--master-url", "m:8000"], "expected http://"),
            (&["--agent-id", "a", "--heartbeat-interval", "0"], "1 to 86400"),
        ] {
            let refusal = parse("batwa-agent", args, &[]).unwrap_err();
            assert!(refusal.code == 2 && refusal.text.contains(says), "{args:?}: {}", refusal.text);
        }
    }

    #[test]
    fn the_advertised_address() {
        assert_eq!(
            advertised("http://127.0.0.1:9", "0.0.0.0:8001".parse().unwrap()),
            "http://127.0.0.1:8001"
        );
        assert_eq!(advertised("http://127.0.0.1:9", "192.0.2.7:5".parse().unwrap()), "http://192.0.2.7:5");
    }
}
