//! Arguments about agents.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use fleetcore::{AddressRule, AgentId};
use secrecy::SecretString;

use crate::parse;

#[derive(Debug, Subcommand)]
pub(crate) enum AgentVerb {
    /// Join, and run the agent as a service from now on
    Install(Box<AgentInstall>),
    /// Stop the service and remove it
    Uninstall(AgentUninstall),
}

/// What starts services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Init {
    /// systemd, on Linux
    Systemd,
    /// launchd, on macOS
    Launchd,
}

/// Which service is meant.
#[derive(Args, Debug)]
pub(crate) struct AgentPlace {
    /// A service of this user [default, unless root]
    #[arg(long, conflicts_with = "system")]
    pub(crate) user: bool,
    /// A service of the whole host [default for root]
    #[arg(long)]
    pub(crate) system: bool,
    /// Keep token, records and output here [default: /var/lib/fleetcore-agent for the whole host, agent-data below the
    /// data directory for a user]
    #[arg(long, value_name = "DIR")]
    pub(crate) agent_dir: Option<PathBuf>,
    /// Service manager [default: that of this system]
    #[arg(long, value_enum, value_name = "NAME")]
    init: Option<Init>,
}

impl AgentPlace {
    /// The service manager.
    pub(crate) fn init(&self) -> Init {
        self.init.unwrap_or(if cfg!(target_os = "macos") { Init::Launchd } else { Init::Systemd })
    }
}

/// What an agent says of its host, and lets others do with it.
#[derive(Args, Debug)]
pub(crate) struct AgentOffer {
    /// A label others can choose it by; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) label: Vec<(String, String)>,
    /// Let tunnels lead to this address: HOST:PORT, HOST:*, *:PORT or *; may be given more than once [default: this host
    /// only]
    #[arg(long, value_name = "ADDR")]
    pub(crate) allow_tunnel: Vec<AddressRule>,
    /// Refuse to read or write files outside of this directory; commands are not restricted
    #[arg(long, value_name = "DIR")]
    pub(crate) file_root: Option<PathBuf>,
}

/// The server is named by --server. The code is exchanged for a token first: the service definition holds no secret.
#[derive(Args, Debug)]
pub(crate) struct AgentInstall {
    #[command(flatten)]
    pub(crate) place: AgentPlace,
    /// Join with this code of `fleetcore agents join-code`, unless this host has joined before
    #[arg(long, value_name = "CODE", env = "FLEETCORE_JOIN_CODE", hide_env_values = true)]
    pub(crate) join: Option<SecretString>,
    /// Name of the agent [default: that of the host]
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<AgentId>,
    #[command(flatten)]
    pub(crate) offer: AgentOffer,
    /// Run a service of the whole host as this user [default: root]
    #[arg(long, value_name = "USER", conflicts_with = "user")]
    pub(crate) run_as: Option<String>,
    /// Let commands change nothing of the host but the agent's directory, and use no sudo
    #[arg(long)]
    pub(crate) confine: bool,
    /// The program to run [default: this one]
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Only print the service definition
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only join and write the definition
    #[arg(long)]
    pub(crate) no_start: bool,
}

#[derive(Args, Debug)]
pub(crate) struct AgentUninstall {
    #[command(flatten)]
    pub(crate) place: AgentPlace,
    /// Also remove token, records and output
    #[arg(long)]
    pub(crate) purge: bool,
    /// Only remove the definition
    #[arg(long)]
    pub(crate) no_stop: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agents {
    /// List agents
    Ls,
    /// Put agents out: their links are closed and their tokens are dead
    Rm {
        /// Names
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Make a code that lets one agent join, once; prints what to run there
    JoinCode {
        /// A label the agent gets; may be given more than once
        #[arg(long, value_name = "KEY=VALUE", value_parser = parse::pair)]
        label: Vec<(String, String)>,
        /// How long the code works, e.g. 10m [default: 1h]
        #[arg(long, value_name = "TIME", value_parser = parse::duration)]
        expires_in: Option<Duration>,
    },
}
