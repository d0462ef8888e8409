//! Recorded sessions of the original, and where this shell differs on purpose.
//!
//! A recording is cut where nothing was running, and the parts are replayed at the same time: most of a recording is
//! waiting for the soft timeout of three seconds.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use super::{RunArgs, open, run, settled};

/// Where this shell differs, and which defect of section 12 of the contract (or of 5.x) that is.
struct Differs {
    name: &'static str,
    defect: &'static str,
    expect: fn(&mut Value, &str),
}

fn content(answer: &mut Value, text: impl Into<Value>) {
    answer["content"] = text.into();
}

/// A command that has ended.
fn ended(answer: &mut Value, command: &str, text: &str, code: i32, dir: &str) {
    let suffix = format!("\n[The command completed with exit code {code}.]");
    *answer = json!({
        "message": format!("Command `{command}` executed with exit code {code}."),
        "observation": "run",
        "content": text,
        "extras": {
            "command": command,
            "metadata": {
                "exit_code": code, "pid": -1, "username": "u", "hostname": "h", "working_dir": dir,
                "py_interpreter_path": "p", "prefix": "", "suffix": suffix,
            },
            "hidden": false,
        },
        "success": code == 0,
    });
}

fn nothing_to_interact_with(answer: &mut Value) {
    ended(answer, "", "ERROR: No previous running command to interact with.", -1, "");
    answer["extras"]["metadata"] = json!({
        "exit_code": -1, "pid": -1, "username": null, "hostname": null, "working_dir": null,
        "py_interpreter_path": null, "prefix": "", "suffix": "",
    });
}

/// `command` is the command of the action, with the working directory in place.
const DIFFERENCES: &[Differs] = &[
    Differs {
        name: "multi-trailing-comment-kept",
        defect: "1: echo in content",
        expect: |a, _| content(a, "1"),
    },
    Differs {
        name: "unparsable-case-multi-lines-run",
        defect: "1: echo in content",
        expect: |a, _| content(a, "m\nmore"),
    },
    Differs { name: "comment-only", defect: "23", expect: |a, c| ended(a, c, "", 0, "/workspace") },
    Differs { name: "escaped-semicolon-at-end", defect: "1", expect: |a, _| content(a, "/workspace") },
    Differs {
        name: "escaped-semicolon-in-middle",
        defect: "1",
        expect: |a, c| ended(a, c, "/workspace\n/workspace", 0, "/workspace"),
    },
    Differs {
        name: "escaped-chars-unquoted",
        defect: "1",
        expect: |a, c| ended(a, c, "> |", 0, "/workspace"),
    },
    Differs {
        name: "escaped-chars-unquoted-recover",
        defect: "1: the command before it has ended",
        expect: |a, _| nothing_to_interact_with(a),
    },
    Differs { name: "trailing-semicolon", defect: "1", expect: |a, _| content(a, "semi") },
    Differs { name: "history-expansion", defect: "1", expect: |a, _| content(a, "wow!nope") },
    Differs { name: "literal-tab-swallowed", defect: "1", expect: |a, _| content(a, "x       y") },
    Differs {
        name: "tmux-key-name-enter",
        defect: "1",
        expect: |a, c| ended(a, c, "bash: Enter: command not found", 127, "/workspace"),
    },
    Differs {
        name: "tmux-key-name-space",
        defect: "1",
        expect: |a, c| ended(a, c, "bash: Space: command not found", 127, "/workspace"),
    },
    Differs {
        name: "clear-command",
        defect: "5.4: nothing is lost",
        expect: |a, _| a["extras"]["metadata"]["prefix"] = "".into(),
    },
    Differs {
        name: "output-then-clear",
        defect: "5.4: one line is left",
        expect: |a, _| {
            let prefix =
                "[Previous command outputs are truncated. Showing the last 1 lines of the output below.]\n";
            a["extras"]["metadata"]["prefix"] = prefix.into();
        },
    },
    Differs {
        name: "new-command-after-silent-finish",
        defect: "5",
        expect: |a, _| content(a, "finished-late\nfresh"),
    },
    Differs { name: "hidden-soft-timeout", defect: "21", expect: |a, _| a["extras"]["hidden"] = true.into() },
    Differs { name: "exit-kills-shell", defect: "2", expect: |a, c| ended(a, c, "exit", 3, "/workspace") },
    Differs { name: "after-exit-1", defect: "2", expect: |a, c| ended(a, c, "one", 0, "/workspace") },
    Differs { name: "after-exit-2", defect: "2", expect: |a, c| ended(a, c, "two", 0, "/workspace") },
    Differs { name: "after-exit-ctrl-c", defect: "2", expect: |a, _| nothing_to_interact_with(a) },
    Differs {
        name: "dir-with-double-quote",
        defect: "4",
        expect: |a, c| ended(a, c, "", 0, "/workspace/q\"d"),
    },
    Differs {
        name: "leave-dir-with-double-quote",
        defect: "4",
        expect: |a, c| ended(a, c, "", 0, "/workspace"),
    },
    Differs { name: "after-prompt-command-unset", defect: "4", expect: |a, c| ended(a, c, "", 0, "/tmp") },
    Differs { name: "hd-unquoted-redirect-after-check", defect: "1", expect: |a, _| content(a, "hello") },
    Differs { name: "hd-unquoted-pipe-duplicated", defect: "1", expect: |a, _| content(a, "1") },
    Differs { name: "hd-unquoted-and-duplicated", defect: "1", expect: |a, _| content(a, "one\nok") },
    Differs { name: "hd-tab-in-body", defect: "1", expect: |a, _| content(a, "") },
    Differs { name: "hd-tab-in-body-check", defect: "1", expect: |a, _| content(a, "x$\n^Iy$") },
    Differs { name: "hd-blank-line-breaks-echo-strip", defect: "1", expect: |a, _| content(a, "a\n\nb") },
    Differs { name: "blank-line-in-quoted-arg", defect: "1", expect: |a, _| content(a, "a\n\nb") },
];

fn recorded(session: &str) -> Option<Vec<Value>> {
    fleetcore_testkit::recorded("openhands-runtime", &format!("{session}.jsonl"))
}

/// Puts what differs from machine to machine in a form that compares.
fn plain(mut answer: Value) -> Value {
    let metadata = &mut answer["extras"]["metadata"];
    if let Some(fields) = metadata.as_object_mut() {
        for (field, name) in [("username", "u"), ("hostname", "h"), ("py_interpreter_path", "p")] {
            if fields.get(field).is_some_and(Value::is_string) {
                fields.insert(field.into(), name.into());
            }
        }
        if fields.get("pid").is_some_and(|pid| pid != -1) {
            fields.insert("pid".into(), "set".into());
        }
    }
    // `[1] 12345`, the process of a job.
    if let Some((job, pid)) = answer["content"].as_str().and_then(|c| c.split_once("] "))
        && job.starts_with('[')
        && !pid.is_empty()
        && pid.bytes().all(|b| b.is_ascii_digit())
    {
        answer["content"] = format!("{job}] PID").into();
    }
    answer
}

async fn replay(steps: Vec<Value>, soft: u64, cuts: &[&str]) {
    let mut parts: Vec<Vec<Value>> = vec![vec![]];
    for step in steps {
        if cuts.iter().any(|cut| step["name"] == *cut) {
            parts.push(vec![]);
        }
        parts.last_mut().unwrap().push(step);
    }
    assert_eq!(parts.len(), cuts.len() + 1, "a cut that is not there");
    let wrong: Vec<String> = join_all(parts.into_iter().map(|part| replay_part(part, soft))).await.concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

async fn replay_part(steps: Vec<Value>, soft: u64) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    let here = path.to_str().unwrap();
    let shell = open(&path, Duration::from_secs(soft)).await;
    let mut wrong = vec![];
    for step in steps {
        if !step["sleep_s"].is_null() {
            settled(&shell).await;
            continue;
        }
        let action = &step["request"]["json"]["action"];
        let args = &action["args"];
        let (Some("run"), Some(command)) = (action["action"].as_str(), args["command"].as_str()) else {
            continue;
        };
        let name = step["name"].as_str().unwrap();
        let flag = |name: &str| args[name] == true;
        let sent = RunArgs {
            command: command.replace("/workspace", here),
            is_input: flag("is_input"),
            blocking: flag("blocking"),
            is_static: flag("is_static"),
            cwd: args["cwd"].as_str().map(str::to_owned),
            hidden: flag("hidden"),
        };
        let got = run(&shell, &sent, action["timeout"].as_f64()).await;
        let mut expect = step["response"]["json"].clone();
        // The command is answered as it was sent.
        if expect["extras"]["command"].as_str().is_some_and(|c| !c.is_empty()) {
            let code = expect["extras"]["metadata"]["exit_code"].clone();
            expect["extras"]["command"] = command.trim().into();
            expect["message"] =
                format!("Command `{}` executed with exit code {code}.", command.trim()).into();
        }
        if let Some(differs) = DIFFERENCES.iter().find(|d| d.name == name) {
            (differs.expect)(&mut expect, command.trim());
        } else if step["records_defect"] == true && !name.starts_with("bash-") {
            assert_eq!(
                plain(expect.clone())["content"],
                plain(got.clone())["content"],
                "{name}: a defect is copied?"
            );
        }
        let expect: Value = serde_json::from_str(&expect.to_string().replace("/workspace", here)).unwrap();
        let (got, expect) = (plain(got), plain(expect));
        if got != expect {
            let defect = DIFFERENCES.iter().find(|d| d.name == name).map_or("-", |d| d.defect);
            wrong.push(format!("{name} (defect {defect}):\n  got    {got}\n  expect {expect}"));
        }
    }
    shell.close().await;
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn basic() {
    let Some(mut steps) = recorded("bash-basic") else { return };
    for step in &mut steps {
        // History expansion is off (defect 1), and the home is another one.
        if step["name"] == "bash-whoami-home" {
            step["request"]["json"]["action"]["args"]["command"] = "echo $-".into();
            step["response"]["json"]["extras"]["command"] = "echo $-".into();
            step["response"]["json"]["content"] = "himBs".into();
        }
    }
    replay(steps, 3, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn special() {
    let Some(steps) = recorded("bash-special") else { return };
    replay(steps, 3, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interactive() {
    let Some(steps) = recorded("bash-interactive") else { return };
    let cuts = [
        "read-prompt",
        "read-secret",
        "slow-output-completes",
        "hard-timeout",
        "soft-then-finishes-quietly",
        "soft-then-finishes-2",
        "blocking-ignores-soft-timeout",
        "blocking-hard-timeout",
        "nonblocking-timeout-longer-than-soft",
        "sleep-for-suspend",
        "python-repl",
        "cat-start",
        "unterminated-quote",
        "unterminated-heredoc",
        "sudo-style-multi-prompt",
        "hidden-soft-timeout",
        "ctrl-backslash-not-special",
    ];
    replay(steps, 3, &cuts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn default_soft_timeout() {
    let Some(steps) = recorded("bash-default-soft-timeout") else { return };
    replay(steps, 10, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shell_exit() {
    let Some(steps) = recorded("bash-shell-exit") else { return };
    replay(steps, 3, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_prompt() {
    let Some(steps) = recorded("bash-broken-prompt") else { return };
    replay(steps, 3, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn here_documents() {
    let Some(steps) = recorded("bash-heredoc-corruption") else { return };
    replay(steps, 3, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_limits() {
    let Some(mut steps) = recorded("bash-output-limits") else { return };
    for step in &mut steps {
        // How many lines exactly depends on the terminal; here it is its scrollback.
        if step["name"] == "out-over-history-limit" {
            let lines: Vec<String> = (20_001..=30_000).map(|n| n.to_string()).collect();
            let all = lines.join("\n");
            let (head, tail) = (&all[..15_000], &all[all.len() - 15_000..]);
            let answer = &mut step["response"]["json"];
            answer["content"] =
                format!("{head}\n[... Observation truncated due to length ...]\n{tail}").into();
            let prefix = &mut answer["extras"]["metadata"]["prefix"];
            *prefix = prefix.as_str().unwrap().replace("10013", "10000").into();
        }
    }
    replay(steps, 3, &[]).await;
}
