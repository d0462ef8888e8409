//! The editor's plugin, with a stand-in for the editor.

use std::os::unix::fs::PermissionsExt as _;

use crate::replay::Running;

const STUB: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$@" > "$here/args"
echo "$$" > "$here/pid"
while [ "$1" != --connection-token-file ]; do shift; done
cat "$2" > "$here/token"
echo "Web UI available at http://localhost"
exec sleep 1000
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_starts_hands_out_its_token_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let stub = bin.join("openvscode-server");
    std::fs::write(&stub, STUB).unwrap();
    std::fs::set_permissions(&stub, std::fs::Permissions::from_mode(0o755)).unwrap();
    let workspace = dir.path().display().to_string();
    let port = {
        let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        free.local_addr().unwrap().port().to_string()
    };
    let env = [
        ("OPENVSCODE_SERVER_ROOT", workspace.as_str()),
        ("WORKSPACE_BASE", workspace.as_str()),
        ("WORKSPACE_MOUNT_PATH_IN_SANDBOX", workspace.as_str()),
        ("VSCODE_PORT", port.as_str()),
        ("OPENVSCODE_SERVER_BASE_PATH", "base/"),
    ];
    let running =
        Running::start(&["--plugins", "vscode", "--username", "root", "--user-id", "0"], &env).await;
    let url = format!("{}/vscode/connection_token", running.url);
    let answer: serde_json::Value = running.http.get(url).send().await.unwrap().json().await.unwrap();
    let token = std::fs::read_to_string(bin.join("token")).unwrap();
    assert_eq!(answer["token"], token.as_str());
    let args = std::fs::read_to_string(bin.join("args")).unwrap();
    assert!(
        args.contains(&format!("--port {port} --disable-workspace-trust --server-base-path /base")),
        "{args}"
    );
    // Everybody sees arguments.
    assert!(!args.contains(&token), "{args}");
    let settings = dir.path().join(".vscode/settings.json");
    assert_eq!(settings.metadata().unwrap().permissions().mode() & 0o777, 0o666);
    let settings = std::fs::read_to_string(settings).unwrap();
    assert!(settings.contains(r#""workbench.colorTheme": "Default Dark Modern""#), "{settings}");
    let pid = std::fs::read_to_string(bin.join("pid")).unwrap();
    let alive = || std::path::Path::new("/proc").join(pid.trim()).exists();
    assert!(alive());
    running.stop().await;
    assert!(!alive());
}
