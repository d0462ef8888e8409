//! The verbs, one module each.

mod agent;
mod agent_identity;
mod agent_install;
mod agents;
mod attach;
pub(crate) mod compat;
mod completions;
mod cp;
mod doctor;
mod exec;
mod fanout;
mod kill;
mod login;
mod logs;
mod ls;
mod machines;
mod man;
mod mcp;
mod operate;
mod ps;
mod run;
mod serve;
mod service;
mod sessions;
mod shell;
mod targets;
mod token;
mod tunnel;
mod user;

use crate::{
    cli::{Cli, CompatCall, Output, Verb},
    config::Settings,
    error::{Failure, Outcome, report},
};

/// Runs the verb; tells a failure; gives the exit code.
pub(crate) async fn dispatch(cli: Cli) -> u8 {
    // Servers log by rules of their own.
    let server = match &cli.command {
        Verb::Serve(_) | Verb::Compat(_) => true,
        Verb::Agent(args) => args.verb.is_none(),
        _ => false,
    };
    if !server {
        log(cli.global.verbose);
    }
    let exec = matches!(cli.command, Verb::Run(_) | Verb::Shell(_) | Verb::Attach(_));
    let (outcome, output) = match Settings::load(&cli.global) {
        Ok(settings) => (verb(cli.command, &settings).await, settings.output),
        Err(e) => (Err(Failure::Error(e)), cli.global.output.unwrap_or(Output::Table)),
    };
    match outcome {
        Ok(code) => code,
        Err(Failure::Error(e)) if exec => report(&Failure::Exec(e), output),
        Err(failure) => report(&failure, output),
    }
}

async fn verb(verb: Verb, settings: &Settings) -> Outcome {
    match verb {
        Verb::Serve(args) => serve::serve(*args, settings).await,
        Verb::Agent(args) => agent::agent(*args, settings).await,
        Verb::Agents { verb } => agents::agents(verb, settings).await,
        Verb::Run(args) => run::run(*args, settings).await,
        Verb::Shell(args) => shell::shell(args, settings).await,
        Verb::Attach(args) => attach::attach(args, settings).await,
        Verb::Ps(args) => ps::ps(args, settings).await,
        Verb::Sessions(args) => sessions::sessions(args, settings).await,
        Verb::Logs(args) => logs::logs(args, settings).await,
        Verb::Kill(args) => kill::kill(args, settings).await,
        Verb::Cp(args) => cp::cp(args, settings).await,
        Verb::Ls(args) => ls::ls(args, settings).await,
        Verb::Tunnel(args) => tunnel::tunnel(args, settings).await,
        Verb::Targets => targets::targets(settings).await,
        Verb::Machines(args) => machines::machines(args, settings).await,
        Verb::Providers => machines::providers(settings).await,
        Verb::Create(args) => operate::create(*args, settings).await,
        Verb::Start(args) => operate::start(args, settings).await,
        Verb::Stop(args) => operate::stop(args, settings).await,
        Verb::Delete(args) => operate::delete(args, settings).await,
        Verb::Action(args) => operate::action(args, settings).await,
        Verb::Login(args) => login::login(args, settings).await,
        Verb::Logout => login::logout(settings).await,
        Verb::Token(args) => token::token(args, settings).await,
        Verb::User(args) => user::user(args, settings).await,
        Verb::Mcp(args) => mcp::mcp(args, settings).await,
        Verb::Compat(args) => {
            let CompatCall::Program(words) = args.call;
            compat::compat(words, settings).await
        }
        Verb::Doctor => doctor::doctor(settings).await,
        Verb::Completions { shell } => completions::completions(shell),
        Verb::Man { dir } => man::man(dir.as_deref()),
    }
}

/// Logs of the library, on stderr, when asked for.
fn log(verbose: u8) {
    let default = match verbose {
        0 => "error",
        1 => "info",
        // In its details are arguments of tools, and those may hold secrets.
        _ => "debug,rmcp=info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    // A second call cannot happen; if it did, the first one's choice is fine.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .try_init();
}
