//! Arguments.

mod agents;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use fleetcore::{AddressRule, AgentId, CommandState, MachineState, Pattern, Role, Scope, Signal, Target};
use secrecy::SecretString;

pub(crate) use agents::{AgentInstall, AgentOffer, AgentPlace, AgentUninstall, AgentVerb, Agents, Init};

use crate::{
    exit,
    forward::Forward,
    parse::{self, FilePlace},
};

/// Run commands, open terminals and move files on every machine you have.
///
/// Without a server the work is done in this process. With --server, FLEETCORE_SERVER, a `server` in the
/// configuration file, after `fleetcore login`, or while `fleetcore serve` of the same user runs on this host, the
/// server does it.
#[derive(Debug, Parser)]
#[command(name = "fleetcore", version, max_term_width = 100, after_help = exit::HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Verb,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Output {
    /// Columns for people; colour on a terminal unless NO_COLOR is set
    #[default]
    Table,
    /// JSON, with the field names of the HTTP API
    Json,
    /// Tab-separated values without a header
    Plain,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Server to use, e.g. http://127.0.0.1:7070 [env: FLEETCORE_SERVER; its token: FLEETCORE_TOKEN]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "local")]
    pub(crate) server: Option<String>,
    /// Work in this process, whatever server is configured or running
    #[arg(long, global = true)]
    pub(crate) local: bool,
    /// Also trust the certificates in this PEM file [env: FLEETCORE_CACERT]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Where records and output are kept [env: FLEETCORE_DATA_DIR; default: fleetcore in the XDG data place]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Configuration file [env: FLEETCORE_CONFIG; default: fleetcore/config.toml in the XDG config place]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How to print results [env: FLEETCORE_OUTPUT; default: table]
    #[arg(short, long, global = true, value_enum, value_name = "FORM")]
    pub(crate) output: Option<Output>,
    /// Only results and errors; lists print ids alone
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Say more on stderr; twice: much more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the server: HTTP API and browser front end
    Serve(Box<Serve>),
    /// Offer this host to a server, from behind any firewall: dials out and stays connected
    Agent(Box<Agent>),
    /// Manage agents of a server; lists them
    Agents {
        #[command(subcommand)]
        verb: Option<Agents>,
    },
    /// Run a command on a target; stdout and stderr stay apart, the exit code is passed on. Or on many at once
    Run(Box<Run>),
    /// Open a terminal on a target
    Shell(Shell),
    /// Attach to a command or session of a server
    Attach(Attach),
    /// List commands; those that run, or all with -a
    Ps(Ps),
    /// List sessions of a server
    Sessions(Sessions),
    /// Print the output of a command
    Logs(Logs),
    /// End a command (TERM, its grace, KILL), send it a signal, or close a session
    Kill(Kill),
    /// Copy files and directories to, from and between targets
    Cp(Cp),
    /// List a directory on a target
    Ls(Ls),
    /// Make ports of this host lead to addresses that a target can reach
    Tunnel(Tunnel),
    /// List targets
    Targets,
    /// List machines of all providers
    Machines(Machines),
    /// List providers of machines, and say what those that do not work need
    Providers,
    /// Make a machine and wait until it is running
    Create(Box<Create>),
    /// Start machines
    Start(Start),
    /// Stop machines
    Stop(Stop),
    /// Delete machines
    Delete(Delete),
    /// Do something else a provider can do; without a name, list what it can
    Action(Action),
    /// Log in to a server and keep an API token for it
    Login(Login),
    /// Revoke and forget the token of a server
    Logout,
    /// Manage API tokens
    #[command(subcommand)]
    Token(Token),
    /// Manage users of a server
    #[command(subcommand)]
    User(User),
    /// Offer the fleet as tools of the Model Context Protocol (MCP), over standard input and output
    Mcp(Mcp),
    /// Stand where another system's program stood, with its own flags and environment
    #[command(arg_required_else_help = true)]
    Compat(Compat),
    /// Check what is installed and say what is missing
    Doctor,
    /// Print a completion script
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all pages to a directory
    Man {
        /// Write one page per command here
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// The first line on stdout is the address. At the first start the next line is the password of `admin`, unless
/// FLEETCORE_ADMIN_PASSWORD or --admin-password-file gives one. SIGTERM or Ctrl-C stop it gracefully, a second one
/// at once. While it runs, commands of the same user on this host find and use it. Flags win over the tables serve,
/// serve.limits and store of the configuration file.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Address to listen on; port 0 picks a free one [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Certificate chain (PEM): speak HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// A proxy with TLS is in front; believe forwarded headers of these addresses (default: loopback)
    #[arg(long, value_name = "CIDR", num_args = 0.., value_delimiter = ',')]
    pub(crate) behind_proxy: Option<Vec<String>>,
    /// Names and addresses the server may be called by, besides localhost and loopback addresses [default: any,
    /// unless it listens on loopback without a proxy]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) allow_host: Vec<String>,
    /// Let tunnels through targets without an agent lead to this address, as seen from the target: HOST:PORT, HOST:*, *:PORT
    /// or *; may be given more than once [default: the target only]
    #[arg(long, value_name = "ADDR")]
    pub(crate) allow_tunnel: Vec<AddressRule>,
    /// Serve this front end instead of the built-in one
    #[arg(long, value_name = "DIR")]
    pub(crate) ui_dir: Option<PathBuf>,
    /// Close sessions that nobody looks at and nothing happens in for this long, e.g. 12h, unless they ask for
    /// something else [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) session_idle: Option<Duration>,
    /// Refuse to read or write files outside of this directory; commands are not restricted
    #[arg(long, value_name = "DIR")]
    pub(crate) file_root: Option<PathBuf>,
    /// Let anybody read /metrics
    #[arg(long)]
    pub(crate) metrics_public: bool,
    /// Form of the log on stderr
    #[arg(long, value_enum, value_name = "FORM", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Read the first admin password from this file's first line
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_password_file: Option<PathBuf>,
    /// Forget finished commands and their output after this long, e.g. 30d [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) retention: Option<Duration>,
    /// Keep at most this many bytes of output per command [default: 1 GiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_log_bytes: Option<u64>,
    /// Keep at most this many bytes of output in all [default: 20 GiB]
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_total_log_bytes: Option<u64>,
    /// Let an agent in with the token in this file's first line; may be given more than once
    #[arg(long, value_name = "ID=FILE", value_parser = parse::agent_token)]
    pub(crate) agent_token_file: Vec<(AgentId, PathBuf)>,
    /// How often agents say that they are alive; they count as online for three times as long
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "10s")]
    pub(crate) agent_heartbeat: Duration,
    /// How long commands at an agent that is away are waited for before they count as lost; they are taken up again
    /// when it comes back later
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "10m")]
    pub(crate) agent_lost_after: Duration,
    /// Also listen at ADDR as the program NAME of another system, e.g. batwa-server=127.0.0.1:8000; its settings come
    /// from the environment, see `fleetcore compat NAME --help`; repeatable
    #[arg(long, value_name = "NAME=ADDR", value_parser = parse::pair)]
    pub(crate) compat: Vec<(String, String)>,
    /// Forget entries of the audit log after this long, e.g. 365d [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) audit_retention: Option<Duration>,
    /// Keep at most this many entries of the audit log [default: 1000000]
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_audit_entries: Option<u64>,
}

/// Commands and sessions run on while the server cannot be reached; what they write is kept here until it can. SIGTERM
/// or Ctrl-C end the agent and what runs on it.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Agent {
    #[command(subcommand)]
    pub(crate) verb: Option<AgentVerb>,
    /// Join with this code of `fleetcore agents join-code`; the token it gets for it is kept, so once is enough
    #[arg(
        long,
        value_name = "CODE",
        env = "FLEETCORE_JOIN_CODE",
        hide_env_values = true,
        conflicts_with = "token_file"
    )]
    pub(crate) join: Option<SecretString>,
    /// Its name [default when joining: that of the host]; afterwards only checked, the token decides
    #[arg(long, value_name = "ID", env = "FLEETCORE_AGENT_ID")]
    pub(crate) id: Option<AgentId>,
    /// Read its token from this file's first line, instead of joining
    #[arg(long, value_name = "FILE", env = "FLEETCORE_AGENT_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Keep records and output here [default: agent-data below the data directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) agent_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) offer: AgentOffer,
    /// Form of the log on stderr
    #[arg(long, value_enum, value_name = "FORM", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Pause before the first try to come back, at most
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "1s", hide = true)]
    pub(crate) reconnect_first: Duration,
    /// Longest pause between tries
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "30s", hide = true)]
    pub(crate) reconnect_most: Duration,
}

/// Made to be started by a program that drives a language model, such as an editor or an assistant: it speaks JSON-RPC on
/// standard input and output, and logs to stderr. It ends when its input ends. With a server, the tools may do what the
/// token may, and the server's audit log says so; without one, everything the tools started ends with it. A server offers
/// the same tools over HTTP at /mcp.
#[derive(Args, Debug)]
pub(crate) struct Mcp {
    /// Offer only tools that change nothing
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Only targets that match, e.g. 'sandbox/*'; repeatable: * is any text within one part of a name, ? one character,
    /// ** as the last part one part or more
    #[arg(long, value_name = "PATTERN")]
    pub(crate) target: Vec<Pattern>,
}

/// `fleetcore compat NAME [ARGS]` takes everything after NAME as the original did; NAME --help tells what. A link to this
/// program under NAME does the same. Names: batwa-server, batwa-agent.
#[derive(Args, Debug)]
pub(crate) struct Compat {
    /// NAME, then the arguments of the original
    #[command(subcommand)]
    pub(crate) call: CompatCall,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CompatCall {
    /// The program to stand in for, and its arguments
    #[command(external_subcommand)]
    Program(Vec<String>),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line per event
    Text,
    /// One JSON object per line
    Json,
}

/// Ctrl-C interrupts the command, a second one kills it. On a terminal (-t) it goes to the program as a key.
///
/// With several targets, a pattern, or one of the options for many targets, the command runs on all of them: each line of
/// output begins with its target, a summary follows on stderr, and the exit code is 0 if all succeeded and 1 otherwise.
/// With --output json, everything is JSON, one object per line. Ctrl-C ends the commands everywhere.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// Where, e.g. local, multipass/dev1, or patterns such as 'office-*' or 'sandbox/*': * is any text within one part of a
    /// name, ? one character, ** as the last part one part or more
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<Pattern>,
    /// Program and arguments; no shell is involved
    #[arg(last = true, value_name = "ARGV", required_unless_present = "shell")]
    pub(crate) argv: Vec<String>,
    /// Run this script with /bin/sh instead
    #[arg(short = 'c', long, value_name = "SCRIPT", conflicts_with = "argv")]
    pub(crate) shell: Option<String>,
    /// Forward our input even when it is a terminal (a pipe or file is always forwarded)
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Do not forward our input
    #[arg(short, long, conflicts_with = "interactive")]
    pub(crate) no_stdin: bool,
    /// Run on a terminal of its own
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set a variable, or pass ours on; repeatable
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = parse::variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Start from an empty environment
    #[arg(long)]
    pub(crate) clear_env: bool,
    /// Run as this user
    #[arg(short, long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// End it after this long, e.g. 30s: exit code 124
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Time between the polite signal and KILL
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "5s")]
    pub(crate) grace: Duration,
    /// Leave it to the server: print its id and return
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub(crate) detach: bool,
    /// One target: label the record. Many: only targets that carry this label; repeatable
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) label: Vec<(String, String)>,
    /// Label the records; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) tag: Vec<(String, String)>,
    /// At most this many at once, 1 to 1000 [default: 20]
    #[arg(long, value_name = "COUNT", help_heading = "Many targets")]
    pub(crate) parallel: Option<usize>,
    /// Start this many, wait for all of them, then go on with the next ones
    #[arg(long, value_name = "COUNT", help_heading = "Many targets")]
    pub(crate) batch: Option<usize>,
    /// Start no more once this many have failed
    #[arg(long, value_name = "COUNT", help_heading = "Many targets")]
    pub(crate) max_failures: Option<usize>,
    /// Print the output of each target in one piece when it has ended
    #[arg(long, help_heading = "Many targets")]
    pub(crate) group: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Machines {
    #[arg(hide = true, value_parser = ["ls"])]
    pub(crate) verb: Option<String>,
    /// Only of this provider
    #[arg(short, long)]
    pub(crate) provider: Option<String>,
    /// Only with this label; repeatable
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) label: Vec<(String, String)>,
    /// Only in this state; repeatable
    #[arg(short, long, value_name = "STATE", value_parser = parse::machine_state)]
    pub(crate) state: Vec<MachineState>,
    /// Also those that are deleted but not purged
    #[arg(short, long)]
    pub(crate) all: bool,
}

/// Progress goes to stderr. Ctrl-C gives it up and removes what was made.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// PROVIDER/NAME, e.g. sandbox/dev1
    pub(crate) target: Target,
    /// Image, in the provider's own words
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Option<String>,
    /// Number of virtual processors
    #[arg(long, value_name = "COUNT")]
    pub(crate) cpus: Option<u32>,
    /// Memory, e.g. 512M or 2G (powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes)]
    pub(crate) memory: Option<u64>,
    /// Size of the disk, e.g. 20G
    #[arg(long, value_name = "BYTES", value_parser = parse::bytes)]
    pub(crate) disk: Option<u64>,
    /// Where
    #[arg(long, value_name = "NAME")]
    pub(crate) region: Option<String>,
    /// Cloud-init user data; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) user_data: Option<PathBuf>,
    /// Label the machine; repeatable
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) label: Vec<(String, String)>,
    /// Setting of this provider, e.g. network=true; repeatable. The value is JSON, or else text
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) option: Vec<(String, String)>,
    /// Leave it to the server: print the id of the command that makes it and return
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Start {
    /// Machines
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<Target>,
    /// Leave it to the server: print the ids of the commands and return
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Stop {
    /// Machines
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<Target>,
    /// Pull the plug
    #[arg(short, long, conflicts_with = "suspend")]
    pub(crate) force: bool,
    /// Keep what is in memory
    #[arg(long)]
    pub(crate) suspend: bool,
    /// Leave it to the server: print the ids of the commands and return
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Asks before, on a terminal; elsewhere --yes must be given.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// Machines
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<Target>,
    /// For good, where deleted machines can be taken back
    #[arg(long)]
    pub(crate) purge: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Leave it to the server: print the ids of the commands and return
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// The answer, if there is one, is printed as JSON. What loses data asks before, on a terminal; elsewhere --yes must be
/// given.
#[derive(Args, Debug)]
pub(crate) struct Action {
    /// A machine, e.g. multipass/dev1; or a provider, e.g. multipass
    pub(crate) target: String,
    /// What to do
    pub(crate) name: Option<String>,
    /// Arguments; repeat one that is a list
    #[arg(value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) args: Vec<(String, String)>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Ctrl-] then d detaches from a shell of a server and leaves it running; Ctrl-] twice sends Ctrl-].
#[derive(Args, Debug)]
pub(crate) struct Shell {
    /// Where, e.g. local or multipass/dev1
    #[arg(default_value = "local")]
    pub(crate) target: Target,
    /// Open or join the session of this name; it lives on the server
    #[arg(short, long, value_name = "NAME")]
    pub(crate) session: Option<fleetcore::SessionId>,
    /// Working directory of a new shell
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set a variable, or pass ours on; repeatable
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = parse::variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Run the shell as this user
    #[arg(short, long, value_name = "NAME")]
    pub(crate) user: Option<String>,
}

/// Ctrl-] then d detaches; Ctrl-] twice sends Ctrl-].
#[derive(Args, Debug)]
pub(crate) struct Attach {
    /// Id (or a unique end of it) of a command, or name of a session
    pub(crate) id: String,
    /// Watch only
    #[arg(long)]
    pub(crate) read_only: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Ps {
    /// Also those that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only on this target
    #[arg(short, long)]
    pub(crate) target: Option<Target>,
    /// Only in this state; repeatable
    #[arg(short, long, value_name = "STATE", value_parser = state)]
    pub(crate) state: Vec<CommandState>,
    /// Only with this label; repeatable
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse::pair)]
    pub(crate) label: Vec<(String, String)>,
    /// Only with this text in the command
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// Only from the last TIME, e.g. 2h
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) since: Option<Duration>,
    /// At most this many
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
}

fn state(text: &str) -> fleetcore::Result<CommandState> {
    CommandState::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| {
        fleetcore::Error::invalid("state", "queued, running, succeeded, failed, cancelled or lost")
    })
}

#[derive(Args, Debug)]
pub(crate) struct Sessions {
    /// Only on this target
    #[arg(short, long)]
    pub(crate) target: Option<Target>,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Id of the command, or a unique end of it
    pub(crate) id: String,
    /// Go on until the command ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Start at this byte
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    pub(crate) from: u64,
    /// Start each line with the time its first byte was read
    #[arg(short, long)]
    pub(crate) timestamps: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Kill {
    /// Ids of commands (or unique ends of them), or names of sessions
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
    /// Send this signal instead
    #[arg(short, long, value_parser = parse::signal)]
    pub(crate) signal: Option<Signal>,
}

/// Places are paths here, TARGET:PATH there, or - for stdin and stdout.
#[derive(Args, Debug)]
pub(crate) struct Cp {
    /// From
    pub(crate) source: FilePlace,
    /// To; a directory takes the name of the source
    pub(crate) destination: FilePlace,
    /// Copy directories with all in them
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Make missing directories
    #[arg(short, long)]
    pub(crate) parents: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Ls {
    /// TARGET:PATH
    pub(crate) place: FilePlace,
}

/// The first lines on stdout are the addresses to connect to, in the order of the arguments. A connection that cannot be made
/// on the other side is closed and reported on stderr; the tunnel goes on. While a server is away, connections are
/// refused; they work again when it is back. Ctrl-C or SIGTERM end it and all connections, exit code 0; a port that is
/// taken is exit code 73, an unknown target 66, a target that cannot be connected through 69.
///
/// Where tunnels may lead is up to the agent (`fleetcore agent --allow-tunnel`), or where there is none to the server
/// (`fleetcore serve --allow-tunnel`): by default the target itself.
#[derive(Args, Debug)]
pub(crate) struct Tunnel {
    /// Where connections are made, e.g. local, office-1 or sandbox/dev1
    pub(crate) target: Target,
    /// As of ssh -L: listen on port LOCAL (0 picks one) at BIND [default: 127.0.0.1], connect to REMOTE at HOST
    /// as seen from the target [default: 127.0.0.1]
    #[arg(required = true, value_name = "[BIND:]LOCAL:[HOST:]REMOTE")]
    pub(crate) forwards: Vec<Forward>,
    /// Connections at once through each; further ones wait
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=65535))]
    pub(crate) max_connections: usize,
}

#[derive(Args, Debug)]
pub(crate) struct Login {
    /// The server; default: the one in use
    pub(crate) url: Option<String>,
    /// Log in as
    #[arg(short, long, default_value = "admin")]
    pub(crate) user: String,
    /// Read the password from this file's first line; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// What the token may do
    #[arg(
        long,
        value_name = "SCOPE",
        value_delimiter = ',',
        default_value = "read,run,files,machines,tunnels"
    )]
    pub(crate) scopes: Vec<Scope>,
    /// Name of the token; default: fleetcore on this host
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// When the token stops working, e.g. 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) expires_in: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token and print its secret, once
    Create {
        /// A name to know it by
        name: String,
        /// What it may do
        #[arg(long, value_name = "SCOPE", value_delimiter = ',', default_value = "read")]
        scopes: Vec<Scope>,
        /// When it stops working, e.g. 90d [default: never]
        #[arg(long, value_name = "TIME", value_parser = parse::duration)]
        expires_in: Option<Duration>,
    },
    /// List tokens
    Ls {
        /// Those of all users
        #[arg(short, long)]
        all: bool,
    },
    /// Revoke tokens
    Rm {
        /// Ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Make a user
    Add {
        /// Login name
        name: String,
        /// viewer, operator or admin
        #[arg(short, long, default_value = "operator")]
        role: Role,
        /// Read the password from this file's first line; - is stdin
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// List users
    Ls,
    /// Remove users and their tokens
    Rm {
        /// Login names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Change the password of a user
    Passwd {
        /// Login name
        name: String,
        /// Read the password from this file's first line; - is stdin
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Change role, lock out or let in
    Set {
        /// Login name
        name: String,
        /// viewer, operator or admin
        #[arg(short, long)]
        role: Option<Role>,
        /// Lock out
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Let in again
        #[arg(long)]
        enable: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
