use serde_json::json;

use super::common::*;

#[tokio::test]
async fn everything_arrives_and_the_close_is_clean() {
    let h = start().await;
    for io in [
        json!({ "shell": "seq 1 200000" }),
        json!({ "shell": "seq 1 200000", "pty": { "cols": 80, "rows": 24 } }),
    ] {
        let id = h.run(io.clone()).await;
        let mut socket = h.attach(&format!("/api/v1/commands/{id}/attach")).await;
        let (all, exit) = socket.read_to_exit().await;
        assert_eq!((exit["code"].as_i64(), exit["state"].as_str()), (Some(0), Some("succeeded")));
        let end = if io["pty"].is_null() { "\n" } else { "\r\n" };
        let want: String = (1..=200_000).map(|n| format!("{n}{end}")).collect();
        assert!(all == want.as_bytes(), "{} of {} bytes", all.len(), want.len());
    }
}

#[tokio::test]
async fn a_terminal_echoes_resizes_and_takes_signals() {
    let h = start().await;
    let body = json!({ "shell": "trap 'echo caught' INT; stty size; while :; do read x; stty size; done", "pty": { "cols": 80, "rows": 24 } });
    let id = h.run(body).await;
    let mut socket = h.attach(&format!("/api/v1/commands/{id}/attach")).await;
    assert_eq!(socket.next().await, Frame::State(json!({ "state": "running" })));
    socket.read_text("24 80").await;
    socket.send(2, &[0, 100, 0, 40]).await;
    socket.input(b"x\n").await;
    socket.read_text("40 100").await;
    socket.send(5, b"are you there").await;
    loop {
        if let Frame::Pong(payload) = socket.next().await {
            assert_eq!(payload, b"are you there");
            break;
        }
    }
    socket.send(6, b"interrupt").await;
    socket.read_text("caught").await;
    for (kind, payload) in [(6u8, &b"nonsense"[..]), (2, &[0, 0, 0, 0]), (9, b"")] {
        socket.send(kind, payload).await;
        loop {
            if let Frame::Error(problem) = socket.next().await {
                assert_eq!(problem["code"], "invalid_input");
                break;
            }
        }
    }
    socket.send(6, b"kill").await;
    let (_, exit) = socket.read_to_exit().await;
    assert_eq!(exit["signal"], 9);
}

#[tokio::test]
async fn clients_resume_where_they_left_off() {
    let h = start().await;
    let id = h.run(json!({ "shell": "cat", "stdin": true })).await;
    let path = format!("/api/v1/commands/{id}/attach");
    let mut all = vec![];
    for n in 0..5 {
        let mut socket = h.attach(&format!("{path}?from={}", all.len())).await;
        let line = format!("line {n}\n");
        socket.input(line.as_bytes()).await;
        let mut got = 0;
        all.extend(
            socket
                .read_until(|frame, _| {
                    if let Frame::Output { data, .. } = frame {
                        got += data.len();
                    }
                    got == line.len()
                })
                .await,
        );
        // Cut off, not closed.
        drop(socket);
    }
    let mut last = h.attach(&path).await;
    last.send(4, b"").await;
    let (whole, _) = last.read_to_exit().await;
    assert_eq!(whole, b"line 0\nline 1\nline 2\nline 3\nline 4\n");
    assert_eq!(whole, all);
    let (rest, _) = h.attach(&format!("{path}?from=7")).await.read_to_exit().await;
    assert_eq!(rest, &whole[7..]);
    let (none, _) = h.attach(&format!("{path}?from=end")).await.read_to_exit().await;
    assert!(none.is_empty());
}

#[tokio::test]
async fn the_window_bounds_what_is_sent() {
    let h = start().await;
    let id =
        h.run(json!({ "shell": "head -c 1000000 /dev/zero; cat", "stdin": true, "overflow": "block" })).await;
    let mut socket = h.attach(&format!("/api/v1/commands/{id}/attach?window=1000")).await;
    let mut got = 0u64;
    let mut acked = 0u64;
    while got < 1_000_000 {
        match socket.next().await {
            Frame::Output { offset, data, .. } => {
                assert_eq!(offset, got);
                got += data.len() as u64;
                assert!(got <= acked + 1000, "{got} sent, {acked} acknowledged");
            }
            Frame::State(_) => {}
            other => panic!("{other:?}"),
        }
        // In larger and larger steps, so that the test stays quick.
        if got == acked + 1000 || got == 1_000_000 {
            let step = if got < 20_000 { got } else { 1_000_000 };
            socket.ack(step).await;
            acked = step;
        }
    }
    // A full window stops nothing else: pings are answered, input is taken.
    socket.input(b"end").await;
    socket.send(4, b"").await;
    let (rest, _) = socket.read_to_exit().await;
    assert_eq!(rest, b"end");
}

#[tokio::test]
async fn a_reader_that_stops_holds_up_nobody() {
    let h = start().await;
    let id = h.run(json!({ "shell": "cat; seq 1 300000", "stdin": true })).await;
    let path = format!("/api/v1/commands/{id}/attach");
    // Never acks, never reads.
    let _stuck = h.attach(&path).await;
    let _stuck_without_window = h.attach(&format!("{path}?window=0")).await;
    let mut socket = h.attach(&path).await;
    socket.send(4, b"").await;
    let (all, _) = socket.read_to_exit().await;
    let want: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(all == want.as_bytes());
}

#[tokio::test]
async fn input_that_waits_for_output_does_not_lock_up() {
    let h = start().await;
    // Echoes far more than the pipes hold, to a client that sends first and reads later.
    let id =
        h.run(json!({ "argv": ["cat"], "stdin": true, "overflow": "block", "replay_bytes": 65536 })).await;
    let mut socket = h.attach(&format!("/api/v1/commands/{id}/attach?window=4096")).await;
    let piece = vec![b'y'; 64 << 10];
    for _ in 0..64 {
        socket.input(&piece).await;
    }
    socket.send(4, b"").await;
    let (all, _) = socket.read_to_exit().await;
    assert_eq!(all.len(), 64 * piece.len());
}

#[tokio::test]
async fn those_who_may_only_look_cannot_hold_a_command_up() {
    use fleetcore::{Role, Scope};
    let mut h = start().await;
    let spec =
        json!({ "shell": "read go; seq 400000", "stdin": true, "overflow": "block", "replay_bytes": 65536 });
    let id = h.run(spec).await;
    let path = format!("/api/v1/commands/{id}");
    let mut mine = h.attach(&format!("{path}/attach")).await;
    let owner = std::mem::take(&mut h.token);
    h.token = h.user_with_token("vera", Role::Viewer, Scope::ALL).await;
    // It takes its window and says nothing more.
    let mut viewer = h.attach(&format!("{path}/attach?window=4096")).await;
    viewer.next().await;
    let events = h.get(&format!("{path}/output")).header("accept", "text/event-stream").send().await.unwrap();
    h.token = owner;
    mine.input(b"go\n").await;
    let (all, exit) = mine.read_to_exit().await;
    assert_eq!((all.len(), exit["code"].as_i64()), (2_688_895, Some(0)));
    drop((viewer, events));
}

#[tokio::test]
async fn those_who_may_only_look_cannot_type() {
    use fleetcore::{Role, Scope};
    let mut h = start().await;
    let id = h.run(json!({ "argv": ["cat"], "stdin": true })).await;
    let path = format!("/api/v1/commands/{id}/attach");
    let mut quiet = h.attach(&format!("{path}?input=false")).await;
    quiet.next().await;
    quiet.input(b"x").await;
    assert!(matches!(quiet.next().await, Frame::Error(p) if p["code"] == "permission_denied"));
    h.token = h.user_with_token("vera", Role::Viewer, Scope::ALL).await;
    let mut viewer = h.attach(&path).await;
    viewer.next().await;
    viewer.input(b"x").await;
    assert!(matches!(viewer.next().await, Frame::Error(p) if p["code"] == "permission_denied"));
    // Looking on stays possible.
    viewer.send(5, b"still here").await;
    assert_eq!(viewer.next().await, Frame::Pong(b"still here".to_vec()));
}

#[tokio::test]
async fn attaching_without_an_upgrade_is_a_problem() {
    let h = start().await;
    let id = h.run(json!({ "argv": ["true"], "wait": {} })).await;
    problem(h.get(&format!("/api/v1/commands/{id}/attach")).send().await.unwrap(), 426, "upgrade_required")
        .await;
    problem(
        h.get(&format!("/api/v1/commands/{id}/attach?from=x")).send().await.unwrap(),
        400,
        "invalid_input",
    )
    .await;
    problem(h.get("/api/v1/sessions/none/attach").send().await.unwrap(), 404, "not_found").await;
}
