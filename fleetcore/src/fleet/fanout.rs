//! One command on many targets.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use wildmatch::WildMatch;

use super::{
    Fleet,
    listing::{ListFailure, Part},
    operations::{GRACE, work_command},
    task::{Task, problem},
};
use crate::{
    CommandHandle, CommandId, CommandRecord, CommandSpec, CommandState, Error, ErrorKind, ExitKind,
    ExitStatus, Io, Labels, MachineFilter, MachineState, OnDrop, OpContext, Result, RunningCommand, Target,
};

/// Targets that are found but not yet begun with.
const FOUND_AHEAD: usize = 64;
/// How long one target may take to start the command: whoever does not answer must not hold a place for ever.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Most commands at once of one fan-out.
const PARALLEL_MAX: usize = 1000;
/// Most patterns of one fan-out.
const PATTERNS_MAX: usize = 1000;
/// Longest pattern: three names and two slashes.
const PATTERN_MAX: usize = 3 * crate::NAME_MAX_BYTES + 2;

/// Which targets: a name, or a pattern in which `*` stands for any text within one part of a name, `?` for one character,
/// and `**` as the last part for one part or more.
///
/// ```
/// # use fleetcore::Pattern;
/// let pattern: Pattern = "office-*".parse()?;
/// assert!(pattern.matches(&"office-1".parse()?));
/// assert!(!pattern.matches(&"office-1/multipass/dev1".parse()?));
/// assert!("office-*/**".parse::<Pattern>()?.matches(&"office-1/multipass/dev1".parse()?));
/// # Ok::<(), fleetcore::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Exact(Target),
    Parts { parts: Vec<WildMatch>, rest: bool },
}

impl Pattern {
    /// Whether it stands for more than one name.
    pub fn is_wild(&self) -> bool {
        matches!(self.kind, Kind::Parts { .. })
    }

    /// The target, when it is the name of one.
    pub fn exact(&self) -> Option<&Target> {
        match &self.kind {
            Kind::Exact(target) => Some(target),
            Kind::Parts { .. } => None,
        }
    }

    /// Whether `target` is one of those it stands for.
    pub fn matches(&self, target: &Target) -> bool {
        match &self.kind {
            Kind::Exact(exact) => exact == target,
            Kind::Parts { parts, rest } => {
                let name = target.to_string();
                let names: Vec<&str> = name.split('/').collect();
                let enough = if *rest { names.len() > parts.len() } else { names.len() == parts.len() };
                enough && parts.iter().zip(&names).all(|(part, name)| part.matches(name))
            }
        }
    }

    /// Whether machines of the provider `scheme` here could be among them.
    fn could_match(&self, scheme: &str) -> bool {
        match &self.kind {
            Kind::Exact(target) => target.agent().is_none() && target.provider() == Some(scheme),
            Kind::Parts { parts, rest } => {
                let first = parts.first().is_none_or(|part| part.matches(scheme));
                first && (parts.len() == 2 || (*rest && parts.len() <= 1))
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if !text.contains(['*', '?']) {
            return Ok(Self { text: text.to_owned(), kind: Kind::Exact(text.parse()?) });
        }
        let invalid = || {
            Error::new(ErrorKind::InvalidInput, "pattern is not valid")
                .with_context("field", "targets")
                .with_context("value", text.chars().take(64).collect::<String>().escape_debug())
                .with_context(
                    "rule",
                    "one to three names with slashes between, in which * and ? stand for others",
                )
        };
        let mut names: Vec<&str> = text.split('/').collect();
        let rest = names.last() == Some(&"**");
        if rest {
            names.pop();
        }
        let fits = |name: &&str| {
            // As names do, it begins with a letter or a digit, or with whatever stands for one.
            name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '*' || c == '?')
                && !name.contains("**")
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-*?".contains(c))
        };
        let most = if rest { 2 } else { 3 };
        if text.len() > PATTERN_MAX || names.len() > most || !names.iter().all(fits) {
            return Err(invalid());
        }
        let parts = names.into_iter().map(WildMatch::new).collect();
        Ok(Self { text: text.to_owned(), kind: Kind::Parts { parts, rest } })
    }
}

/// Told of each command as soon as it runs.
type OnStart = Arc<dyn Fn(&CommandHandle) + Send + Sync>;

/// One command on many targets. Run by [`Fleet::fan_out`].
#[derive(Clone)]
#[non_exhaustive]
pub struct FanOut {
    /// Which targets. A name without wildcards is used whether it is listed or not.
    pub targets: Vec<Pattern>,
    /// Of these, only those that carry all of these labels.
    pub labels: Labels,
    /// What to run; it cannot have input.
    pub command: CommandSpec,
    /// At most this many at once, 1 to 1000. Default 20.
    pub parallel: usize,
    /// Start this many, wait for all of them, then go on with the next ones. Default: go on whenever one has ended.
    pub batch: Option<usize>,
    /// Start no more once this many have failed. Default: start all.
    pub max_failures: Option<usize>,
    on_start: Option<OnStart>,
}

impl fmt::Debug for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanOut")
            .field("targets", &self.targets)
            .field("labels", &self.labels)
            .field("command", &self.command)
            .field("parallel", &self.parallel)
            .field("batch", &self.batch)
            .field("max_failures", &self.max_failures)
            .finish_non_exhaustive()
    }
}

impl FanOut {
    /// Label of the parent's record, with the value `parent`.
    pub const LABEL: &'static str = "fleetcore/fanout";
    /// Label of each child's record: the id of the parent.
    pub const PARENT_LABEL: &'static str = "fleetcore/parent";

    /// `command` on all of `targets`.
    pub fn new(targets: Vec<Pattern>, command: CommandSpec) -> Self {
        Self {
            targets,
            labels: Labels::new(),
            command,
            parallel: 20,
            batch: None,
            max_failures: None,
            on_start: None,
        }
    }

    /// Calls `told` with each command as soon as it runs, before anybody else can know of it. For those who want all of
    /// its output although nothing is stored.
    #[must_use]
    pub fn with_on_start(mut self, told: impl Fn(&CommandHandle) + Send + Sync + 'static) -> Self {
        self.on_start = Some(Arc::new(told));
        self
    }

    /// Refuses what cannot be run.
    ///
    /// # Errors
    /// `InvalidInput` that names the field.
    pub fn check(&self) -> Result<()> {
        let within = |field, n: usize, most: usize| match n {
            0 => Err(Error::invalid(field, format!("1 to {most}"))),
            n if n > most => Err(Error::invalid(field, format!("1 to {most}"))),
            _ => Ok(()),
        };
        within("targets", self.targets.len(), PATTERNS_MAX)?;
        within("parallel", self.parallel, PARALLEL_MAX)?;
        within("batch", self.batch.unwrap_or(1), usize::MAX)?;
        within("max_failures", self.max_failures.unwrap_or(1), usize::MAX)?;
        if matches!(self.command.io, Io::Pipes { stdin: true, .. }) {
            return Err(Error::invalid("stdin", "left out: one input cannot be given to many commands"));
        }
        self.command.check()
    }

    /// The command that stands for all of it: see [`Operation::command`](super::Operation::command).
    pub fn command(&self) -> CommandSpec {
        let of = &self.command;
        let patterns: Vec<&str> = self.targets.iter().map(|p| p.text.as_str()).collect();
        let mut args = BTreeMap::from([
            ("command".to_owned(), of.program.display()),
            ("parallel".to_owned(), self.parallel.to_string()),
            ("targets".to_owned(), patterns.join(" ")),
        ]);
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                args.insert(key.to_owned(), value);
            }
        };
        put("batch", self.batch.map(|n| n.to_string()));
        put("max_failures", self.max_failures.map(|n| n.to_string()));
        put("cwd", of.cwd.clone());
        put("user", of.user.clone());
        put("timeout_ms", of.timeout.map(|t| t.as_millis().to_string()));
        put("clear_env", of.clear_env.then(|| "true".to_owned()));
        put(
            "terminal",
            if let Io::Pty(size) = of.io { Some(format!("{}x{}", size.cols, size.rows)) } else { None },
        );
        args.extend(self.labels.iter().map(|(k, v)| (format!("labels.{k}"), v.clone())));
        let mut command = work_command("fanout", args);
        // Never recorded, but part of what the request was.
        command.env.clone_from(&of.env);
        command.labels.clone_from(&of.labels);
        command.labels.insert(Self::LABEL.to_owned(), "parent".to_owned());
        command.grace = GRACE.max(of.grace.saturating_add(Duration::from_secs(10)));
        command
    }
}

impl Fleet {
    /// Runs one command on many targets. What is returned is the parent: a command whose output (channel `Log`) is one
    /// JSON object per line,
    ///
    /// | line | when |
    /// |---|---|
    /// | `{"target", "command", "state": "running", "exit": null, "error": null}` | a command has started |
    /// | the same with its last `state` and its `exit` | it has ended, or could not start (then `error` says why, and `command` may be null) |
    /// | the same with `"state": "skipped"` | it was not started, because too many had failed |
    /// | `{"provider", "state": "failed", "error"}` | a provider whose machines could be meant cannot list them |
    /// | `{"summary": {"targets", "succeeded", "failed", "skipped"}}` | at the end |
    /// | `{"problem"}` | last, unless all went well |
    ///
    /// The children are commands like any others, with the label [`FanOut::PARENT_LABEL`]. Cancelling the parent cancels
    /// them. It succeeds when there was at least one target and all succeeded. A target that cannot be reached is a
    /// failure like any other and delays nobody.
    ///
    /// # Errors
    /// `InvalidInput`; `RateLimited`; `AlreadyExists` for an id that has been used.
    pub async fn fan_out(&self, cx: &OpContext, id: CommandId, plan: FanOut) -> Result<RunningCommand> {
        plan.check()?;
        let command = plan.command();
        let fleet = self.clone();
        let task = Task::executor(
            true,
            Box::new(move |cx, lines| async move { drive(&fleet, id, plan, &cx, lines).await }.boxed()),
        );
        self.commands().spawn_task(&Target::local(), task, cx, id, command).await
    }
}

/// What the search for targets finds.
enum Found {
    Target(Target),
    Missing(Target),
    Failure(ListFailure),
}

/// Finds the targets, each once, the ones that need no search first.
async fn discover(fleet: &Fleet, plan: &FanOut, cx: &OpContext, found: mpsc::Sender<Found>) {
    let mut known = HashSet::new();
    let mut searched = Vec::new();
    for pattern in &plan.targets {
        match pattern.exact() {
            Some(target) if plan.labels.is_empty() => {
                if known.insert(target.clone()) && found.send(Found::Target(target.clone())).await.is_err() {
                    return;
                }
            }
            _ => searched.push(pattern),
        }
    }
    if searched.is_empty() {
        return;
    }
    let all = MachineFilter::default();
    let mut parts = fleet.parts(cx, &all);
    let mut listed = HashSet::new();
    while let Some(part) = parts.next().await {
        // Fails when the fan-out is cancelled.
        let Ok(part) = part else { return };
        for part in part {
            let finds: Vec<Found> = match part {
                Part::Machines(machines) => machines
                    .into_iter()
                    .filter(|m| m.info.state != MachineState::Deleted)
                    .filter(|m| searched.iter().any(|p| p.matches(&m.target)))
                    .filter(|m| {
                        listed.insert(m.target.clone());
                        plan.labels.iter().all(|(k, v)| m.info.labels.get(k) == Some(v))
                    })
                    .filter(|m| known.insert(m.target.clone()))
                    .map(|m| Found::Target(m.target))
                    .collect(),
                Part::Failure(failure) if searched.iter().any(|p| p.could_match(&failure.provider)) => {
                    vec![Found::Failure(failure)]
                }
                Part::Failure(_) => Vec::new(),
            };
            for find in finds {
                if found.send(find).await.is_err() {
                    return;
                }
            }
        }
    }
    for target in searched.iter().filter_map(|p| p.exact()) {
        if !listed.contains(target)
            && known.insert(target.clone())
            && found.send(Found::Missing(target.clone())).await.is_err()
        {
            return;
        }
    }
}

#[derive(Default)]
struct Count {
    targets: usize,
    succeeded: usize,
    failed: usize,
    skipped: usize,
}

fn line(target: &Target, command: Option<CommandId>, state: &str, exit: Value, error: Value) -> String {
    json!({ "target": target, "command": command, "state": state, "exit": exit, "error": error }).to_string()
}

fn exit_json(exit: ExitStatus) -> Value {
    let (code, signal) = match exit.kind {
        ExitKind::Code(code) => (Some(code), None),
        ExitKind::Signal(signal) => (None, Some(signal)),
        ExitKind::Unknown => (None, None),
    };
    json!({ "code": code, "signal": signal, "reason": exit.reason, "leaked": exit.leaked })
}

/// The last line about a command.
fn ended(record: &CommandRecord) -> String {
    let error = record.error.as_ref().map(|text| json!({ "detail": text }));
    let exit = record.exit.map_or(Value::Null, exit_json);
    line(&record.target, Some(record.id), record.state.as_str(), exit, error.unwrap_or_default())
}

async fn drive(
    fleet: &Fleet,
    parent: CommandId,
    plan: FanOut,
    cx: &OpContext,
    lines: mpsc::Sender<String>,
) -> Result<Vec<String>> {
    // Nobody reads the lines any more when this was killed; the children are ended all the same.
    let say = async |text: String| drop(lines.send(text).await);
    let (found, mut queue) = mpsc::channel(FOUND_AHEAD);
    let mut discovery = std::pin::pin!(discover(fleet, &plan, cx, found).fuse());
    let mut searching = true;
    let mut open = true;
    let mut running = FuturesUnordered::new();
    let mut count = Count::default();
    let batch = plan.batch.unwrap_or(usize::MAX);
    let mut left = batch;
    loop {
        let enough = plan.max_failures.is_some_and(|most| count.failed >= most);
        let start = !enough && running.len() < plan.parallel && left > 0;
        if cx.cancel.is_cancelled() {
            open = false;
        }
        if !open && running.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            () = &mut discovery, if searching => searching = false,
            Some(end) = running.next(), if !running.is_empty() => {
                let (succeeded, text): (bool, String) = end;
                if succeeded { count.succeeded += 1 } else { count.failed += 1 }
                say(text).await;
                if running.is_empty() {
                    left = batch;
                }
            }
            find = queue.recv(), if open && (start || enough) => match find {
                None => open = false,
                Some(Found::Target(target)) => {
                    count.targets += 1;
                    if enough {
                        count.skipped += 1;
                        say(line(&target, None, "skipped", Value::Null, Value::Null)).await;
                    } else {
                        left -= 1;
                        running.push(child(fleet, parent, &plan, cx, target, &lines));
                    }
                }
                Some(Found::Missing(target)) => {
                    count.targets += 1;
                    count.failed += 1;
                    let error = Error::new(ErrorKind::NotFound, "no such target").with_context("target", &target);
                    say(line(&target, None, "failed", Value::Null, problem(&error))).await;
                }
                Some(Found::Failure(failure)) => {
                    count.failed += 1;
                    let text = json!({
                        "provider": failure.provider, "state": "failed", "error": problem(&failure.error)
                    });
                    say(text.to_string()).await;
                }
            },
            () = cx.cancel.cancelled(), if open => open = false,
        }
    }
    let Count { targets, succeeded, failed, skipped } = count;
    let summary = json!({ "summary": {
        "targets": targets, "succeeded": succeeded, "failed": failed, "skipped": skipped
    } });
    if !cx.cancel.is_cancelled() && targets > 0 && succeeded == targets && failed == 0 {
        return Ok(vec![summary.to_string()]);
    }
    say(summary.to_string()).await;
    if cx.cancel.is_cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "the caller cancelled").with_operation("fan out"));
    }
    if targets == 0 && failed == 0 {
        let patterns: Vec<&str> = plan.targets.iter().map(|p| p.text.as_str()).collect();
        return Err(Error::new(ErrorKind::NotFound, "no target is meant")
            .with_operation("fan out")
            .with_context("targets", patterns.join(" ")));
    }
    let message = format!("{failed} failed, {skipped} were skipped, {succeeded} of {targets} succeeded");
    Err(Error::new(ErrorKind::CommandFailed, message).with_operation("fan out"))
}

/// Runs the command on one target; whether it succeeded, and the last line about it.
async fn child(
    fleet: &Fleet,
    parent: CommandId,
    plan: &FanOut,
    cx: &OpContext,
    target: Target,
    lines: &mpsc::Sender<String>,
) -> (bool, String) {
    let id = CommandId::generate();
    let spec = plan.command.clone().with_label(FanOut::PARENT_LABEL, parent.to_string());
    let spec = spec.with_on_drop(OnDrop::Detach);
    let starting =
        OpContext { actor: cx.actor.clone(), cancel: cx.cancel.child_token(), ..OpContext::default() }
            .with_timeout(START_LIMIT);
    let begun = async { fleet.target(&target)?.spawn_with(&starting, id, spec).await };
    let handle = match begun.await {
        Ok(command) => command.detach(),
        Err(error) => {
            // It has a record if the way there was found.
            let known = fleet.commands().get(id).await.is_ok().then_some(id);
            return (false, line(&target, known, "failed", Value::Null, problem(&error)));
        }
    };
    if let Some(told) = &plan.on_start {
        told(&handle);
    }
    let text = line(&target, Some(id), "running", Value::Null, Value::Null);
    // As above: what nobody reads is not said.
    let _ = lines.send(text).await;
    let waited = tokio::select! {
        waited = handle.wait() => waited,
        () = cx.cancel.cancelled() => {
            handle.cancel();
            handle.wait().await
        }
    };
    let record = handle.record();
    match waited {
        Ok(_) => (record.state == CommandState::Succeeded, ended(&record)),
        Err(error) => (false, line(&target, Some(id), "lost", Value::Null, problem(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, targets: &[&str]) -> Vec<bool> {
        let pattern: Pattern = pattern.parse().unwrap();
        targets.iter().map(|t| pattern.matches(&t.parse().unwrap())).collect()
    }

    #[test]
    fn a_star_stays_within_its_part() {
        let all = ["local", "office-1", "sandbox/dev1", "office-1/multipass/dev1"];
        assert_eq!(matches("*", &all), [true, true, false, false]);
        assert_eq!(matches("office-*", &all), [false, true, false, false]);
        assert_eq!(matches("*/dev?", &all), [false, false, true, false]);
        assert_eq!(matches("**", &all), [true, true, true, true]);
        assert_eq!(matches("office-?/**", &all), [false, false, false, true]);
        assert_eq!(matches("*/multipass/*", &all), [false, false, false, true]);
        assert_eq!(matches("sandbox/dev1", &all), [false, false, true, false]);
    }

    #[test]
    fn what_no_name_can_match_is_refused() {
        for bad in ["", "/", "*/", "a/b/c/*", "a b*", "**/x", "a**", "../*", "--all", "ü*", &"*".repeat(900)]
        {
            let error = bad.parse::<Pattern>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn a_provider_that_fails_matters_only_where_it_could_be_meant() {
        let could = |pattern: &str| pattern.parse::<Pattern>().unwrap().could_match("sandbox");
        assert!(could("sandbox/*") && could("*/x") && could("**") && could("s*/**") && could("sandbox/x"));
        assert!(!could("office-*") && !could("ssh/*") && !could("*/sandbox/*") && !could("ssh/**"));
    }
}
