//! Every recorded terminal, typed again: the same lines come back, the same texts of the server, and a real close.

use serde_json::{Value, json};

use crate::{common::*, replay::VERSIONS, terminal::Terminal};

/// What differs from the recording, by its name.
struct Want {
    /// The handshake is refused.
    refused: Option<u16>,
    /// Texts of the server.
    texts: Option<&'static str>,
    /// The close code, if the server closes.
    code: Option<u16>,
    /// What programs print.
    lines: Option<&'static [&'static str]>,
}

fn differs(name: &str) -> Option<Want> {
    let same = Want { refused: None, texts: None, code: None, lines: None };
    let invalid = "Error: Invalid VM name\r\n";
    let unreachable = "\r\n[Connection Error] Agent 'agent1' is unreachable\r\n";
    Some(match name {
        // D1
        "bad-origin" => {
            Want { texts: Some("Error: Not authenticated\r\n"), code: Some(1008), lines: Some(&[]), ..same }
        }
        // D2
        "agent-direct-no-key" | "agent-direct-wrong-key" => Want { refused: Some(403), ..same },
        // D4, D5
        "option-injection" | "remote-vm-name-with-space" | "remote-vm-name-injection" => {
            Want { texts: Some(invalid), code: Some(1008), lines: Some(&[]), ..same }
        }
        // 4.2: binary is typed too; sizes that are none are swallowed; the first size is one that everybody knows.
        "binary-input" => {
            Want { texts: Some(""), lines: Some(&["Welcome to primary", "hi", "still-here"]), ..same }
        }
        "remote-binary-input" => {
            Want { texts: Some(""), lines: Some(&["Welcome to web", "hi", "still-here"]), ..same }
        }
        "resize-variants" => {
            Want { lines: Some(&["20 90", "21 91", "21 91", "21 91", "21 91", "21 91", "24 80"]), ..same }
        }
        "local-initial-size" => Want { lines: Some(&["Welcome to primary", "24 80"]), ..same },
        // 4.4: the browser is told at once: of the shell's end or the agent's, whichever comes first.
        "agent-killed-during-session" => Want { code: Some(1000), ..same },
        // Nobody needs to know where the agent is.
        "remote-agent-down" => Want { texts: Some(unreachable), ..same },
        "remote-agent-refused" => {
            Want { texts: Some("\r\n[Connection Error] Agent 'agent2' is unreachable\r\n"), ..same }
        }
        "wrong-path" => Want { refused: Some(404), ..same },
        "no-multipass" => Want {
            texts: Some(
                "\r\n[Connection Error] multipass command not found. Is multipass installed?\r\n\
                 Make sure the VM 'primary' is running.\r\n",
            ),
            code: Some(1011),
            ..same
        },
        _ => return None,
    })
}

/// What was printed, line by line, without prompts, what was typed, and control sequences: their place depends on timing.
fn lines(output: &str, typed: &[String]) -> Vec<String> {
    let mut plain = String::new();
    let mut chars = output.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => drop(chars.by_ref().skip(1).find(|c| ('\u{40}'..='\u{7e}').contains(c))),
            '\r' | '\n' => plain.push('\n'),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    let lines = plain.lines().map(str::trim).filter(|l| !l.is_empty() && !l.contains("ubuntu@"));
    lines.filter(|l| !typed.iter().any(|t| t == l)).map(str::to_owned).collect()
}

/// Whether `wanted` are among `got`, in their order.
fn among(wanted: &[String], got: &[String]) -> bool {
    let mut got = got.iter();
    wanted.iter().all(|w| got.any(|g| g == w))
}

fn texts(events: &[Value]) -> String {
    let texts = events.iter().filter(|e| e["dir"] == "recv" && e["type"] == "text");
    texts.map(|e| e["data"].as_str().unwrap()).collect()
}

struct Side {
    master: Running,
    agent: Option<Running>,
    cookie: String,
    _local: Multipass,
    _theirs: Multipass,
}

async fn sides() -> Side {
    let (local, theirs) = (Multipass::local(), Multipass::agent());
    for multipass in [&local, &theirs] {
        multipass.set("vms/echo", "Running\n[]\nUbuntu 22.04 LTS\n1\n");
    }
    let master = Running::master(&local, &["--open-enrolment"]).await;
    let agent = Running::agent(&theirs, &["--agent-id", "agent1", "--api-key", AGENT_KEY]).await;
    assert_eq!(master.register("agent1", &agent.url(), Some(AGENT_KEY)).await.status, 200);
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(master.register("agent2", &format!("http://{closed}"), None).await.status, 200);
    let cookie = master.login().await;
    Side { master, agent: Some(agent), cookie, _local: local, _theirs: theirs }
}

/// Types it again; says what is not as it should be.
async fn replay(sides: &mut Side, record: &Value) -> Result<(), String> {
    let (name, path) = (record["name"].as_str().unwrap(), record["path"].as_str().unwrap());
    let events = record["events"].as_array().cloned().unwrap_or_default();
    let want = differs(name);
    let mut headers: Vec<(&str, String)> = Vec::new();
    if record["server"] == "agent" {
        match name {
            "agent-direct-no-key" => {}
            "agent-direct-wrong-key" => headers.push(("X-API-Key", "wrong".to_owned())),
            _ => headers.push(("X-API-Key", AGENT_KEY.to_owned())),
        }
    } else {
        headers.push(("Cookie", sides.cookie.clone()));
    }
    if let Some(origin) = record["origin"].as_str() {
        headers.push(("Origin", origin.to_owned()));
    }
    if name == "remote-agent-offline" {
        let beat = json!({"agent_id": "agent1", "timestamp": 0, "status": "offline", "vm_count": 0});
        sides.master.post("/api/agent/heartbeat", &[("X-API-Key", AGENT_KEY)], &beat).await;
    }
    let without;
    let server = match (name, record["server"] == "agent") {
        ("no-multipass", _) => {
            without = Running::start("batwa-server", &["--multipass", "/nonexistent/multipass"]).await;
            headers = vec![("Cookie", without.login().await)];
            &without
        }
        (_, true) => sides.agent.as_ref().unwrap(),
        (_, false) => &sides.master,
    };
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let opened = Terminal::try_open(server, path, &headers).await;
    let refused = want.as_ref().and_then(|w| w.refused);
    let mut terminal = match opened {
        Ok(_) if refused.is_some() => return Err("it was let in".to_owned()),
        Ok(terminal) => terminal,
        Err(status) if refused == Some(status) => return Ok(()),
        Err(status) => return Err(format!("refused with {status}")),
    };

    let sent = |e: &&Value| e["dir"] == "send" && e["type"] != "close";
    let typed: Vec<String> = match path.contains("vm_name=echo") {
        true => Vec::new(),
        false => events
            .iter()
            .filter(sent)
            .filter_map(|e| e["data"].as_str())
            .map(|t| t.trim().trim_start_matches('\u{15}').to_owned())
            .collect(),
    };
    let fixed = want.as_ref().and_then(|w| w.lines);
    let all: Vec<String> = match fixed {
        Some(lines) => lines.iter().map(|l| (*l).to_owned()).collect(),
        None => {
            let printed = events.iter().filter(|e| e["dir"] == "recv" && e["type"] == "binary");
            lines(&printed.map(|e| e["data"].as_str().unwrap()).collect::<String>(), &typed)
        }
    };
    let mut printed = String::new();
    let mut closes = want.as_ref().and_then(|w| w.code);
    let mut sizes = 0;
    for event in &events {
        match event["dir"].as_str().unwrap() {
            "recv" if event["type"] == "binary" => printed.push_str(event["data"].as_str().unwrap()),
            "send" if event["type"] == "tcp-reset" => {
                terminal.reset();
                return Ok(());
            }
            "send" if event["type"] == "close" => break,
            "send" if closes.is_some() && terminal.code.is_some() => {}
            "send" => {
                let data = event["data"].as_str().unwrap();
                // First what was seen before this was typed.
                let before = match (name, fixed) {
                    ("resize-variants", Some(lines)) => {
                        let asked = usize::from(data.contains("stty size"));
                        sizes += asked;
                        lines.iter().take(sizes - asked).map(|l| (*l).to_owned()).collect()
                    }
                    (_, Some(lines)) => lines.iter().take(1).map(|l| (*l).to_owned()).collect(),
                    (_, None) => lines(&printed, &typed),
                };
                if !terminal.until(|t| among(&before, &lines(&t.shown(), &typed))).await {
                    return Err(format!("closed before {data:?}; seen {:?}", terminal.shown()));
                }
                match event["type"].as_str().unwrap() {
                    "binary" => terminal.send_bytes(data.as_bytes()).await,
                    _ => terminal.send(data).await,
                }
            }
            "note" => match event["data"].as_str().unwrap_or_default() {
                "agent process killed (SIGKILL)" => {
                    terminal.until(|t| among(&all, &lines(&t.shown(), &typed))).await;
                    sides.agent.take().unwrap().stop().await;
                    break;
                }
                // The Python version never notices that the shell has ended.
                text if text.starts_with("no close from the server") && printed_ended(name) => {
                    closes = closes.or(Some(1000));
                    break;
                }
                _ => {}
            },
            // Where the Go version drops the connection there is a real close now.
            "closed" if event["by"] != "client" && !name.contains("binary-input") => {
                closes = closes.or(Some(1000));
                break;
            }
            _ => {}
        }
    }
    let seen = match closes {
        Some(code) => {
            let ended = terminal.end().await;
            let either = name == "agent-killed-during-session" && ended == Some(1001);
            if ended != Some(code) && !either {
                return Err(format!("closed with {ended:?} instead of {code}"));
            }
            among(&all, &lines(&terminal.shown(), &typed))
        }
        None => terminal.until(|t| among(&all, &lines(&t.shown(), &typed))).await,
    };
    if !seen {
        return Err(format!("wanted {all:?}, seen {:?}", terminal.shown()));
    }
    let texts = want.and_then(|w| w.texts).map_or_else(|| texts(&events), str::to_owned);
    if terminal.texts != texts {
        return Err(format!("wanted the texts {texts:?}, got {:?}", terminal.texts));
    }
    terminal.close().await;
    Ok(())
}

fn printed_ended(name: &str) -> bool {
    name.contains("exit") || name.contains("unknown-vm")
}

#[tokio::test]
async fn recorded_terminals_again() {
    for version in VERSIONS {
        let Some(records) = recorded(&format!("{version}/ws.jsonl")) else { return };
        let mut sides = sides().await;
        let mut broken = Vec::new();
        let mut typed = 0;
        for record in &records {
            let name = record["name"].as_str().unwrap();
            // The recorder waited a second for the program; `nothing_of_a_paste_is_lost` does it with one that says so.
            if name == "big-paste-raw" {
                continue;
            }
            typed += 1;
            if let Err(why) = replay(&mut sides, record).await {
                broken.push(format!("{name}: {why}"));
            }
        }
        assert!(broken.is_empty(), "{version}: {} of {typed}\n{}", broken.len(), broken.join("\n"));
        assert!(typed >= 30, "{typed}");
    }
}

/// Fields of `/proc/PID/stat` after the name of the program.
fn stat(pid: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    text.rsplit(") ").next().unwrap().split(' ').map(str::to_owned).collect()
}

/// `tty.jsonl`: as the Go version, which the contract says to follow.
#[tokio::test]
async fn recorded_signals_reach_programs() {
    let Some(records) = recorded("go/tty.jsonl") else { return };
    let of = |vm: &str| records.iter().find(|r| r["vm"] == vm).unwrap().clone();
    let local = Multipass::local();
    for vm in ["echo", "size", "deaf"] {
        local.set(&format!("vms/{vm}"), "Running\n[]\nUbuntu 22.04 LTS\n1\n");
    }
    let master = Running::master(&local, &[]).await;
    let cookie = master.login().await;
    let open =
        async |vm: &str| Terminal::open(&master, &format!("/ws?vm_name={vm}"), &[("Cookie", &cookie)]).await;

    let mut deaf = open("deaf").await;
    deaf.until(|t| t.shown().matches('\n').count() >= 2).await;
    let pid = deaf.shown().lines().nth(1).unwrap().trim().to_owned();
    let stat = stat(&pid);
    let before = &of("echo")["before_ctrl_c"][0];
    // state ppid pgrp session tty_nr tpgid
    assert_eq!(json!(stat[3] == pid), before["is_session_leader"]);
    assert_eq!(json!(stat[4] != "0"), before["has_controlling_tty"]);
    assert_eq!(json!(stat[5] == stat[2]), before["tpgid_is_self"]);

    let mut cat = open("echo").await;
    cat.until_text("Welcome to echo").await;
    cat.send("\u{3}").await;
    assert_eq!(of("echo")["after_ctrl_c"], json!([]), "cat has ended");
    assert_eq!(cat.end().await, Some(1000));
    assert!(cat.shown().contains(of("echo")["output_after"].as_str().unwrap()));

    let mut bash = open("primary").await;
    bash.until_text("$ ").await;
    // Of one process: between two of its commands the shell itself would take the signal, and go on.
    bash.send("sh -c 'echo R''EADY; exec sleep 50'\r").await;
    bash.until_text("\rREADY").await;
    bash.send("\u{3}").await;
    bash.until(|t| lines(&t.shown(), &[]).contains(&"^C".to_owned()) && t.shown().ends_with("$ ")).await;

    let mut size = open("size").await;
    size.send(r#"{"type":"resize","cols":80,"rows":24}"#).await;
    size.until_text("24 80").await;
    let winch = of("winch")["output"].as_str().unwrap().to_owned();
    for cols in winch.lines().filter_map(|l| l.strip_prefix("SIGWINCH ")) {
        size.send(&format!(r#"{{"type":"resize","cols":{cols},"rows":24}}"#)).await;
        size.until_text(&format!("24 {cols}")).await;
    }
}
