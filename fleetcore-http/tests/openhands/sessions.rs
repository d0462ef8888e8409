//! One test for each recording.

use std::os::unix::fs::PermissionsExt as _;

use crate::replay::replay;

macro_rules! sessions {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                replay($name, &[]).await;
            }
        )*
    };
}

sessions! {
    http_basic = "http-basic",
    http_auth = "http-auth",
    server_info_idle = "server-info-idle",
    vscode_no_port = "vscode-no-port",
    bash_basic = "bash-basic",
    bash_special = "bash-special",
    bash_interactive = "bash-interactive",
    bash_default_soft_timeout = "bash-default-soft-timeout",
    bash_output_limits = "bash-output-limits",
    bash_shell_exit = "bash-shell-exit",
    bash_broken_prompt = "bash-broken-prompt",
    bash_heredoc = "bash-heredoc-corruption",
    files_read = "files-read",
    files_view = "files-view-oh-aci",
    files_write = "files-write",
    files_edit = "files-edit",
    list_upload_download = "list-upload-download",
    file_viewer = "file-viewer",
}

/// With a program in the editor's place, as when it was recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vscode_stub() {
    let root = tempfile::tempdir().unwrap();
    let program = root.path().join("bin/openvscode-server");
    std::fs::create_dir(root.path().join("bin")).unwrap();
    std::fs::write(&program, "#!/bin/sh\necho Web UI available at nowhere\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port().to_string();
    let root = root.path().display().to_string();
    let env = [
        ("OPENVSCODE_SERVER_ROOT", &*root),
        ("WORKSPACE_BASE", "/workspace"),
        ("WORKSPACE_MOUNT_PATH_IN_SANDBOX", "/workspace"),
        ("VSCODE_PORT", &*port),
    ];
    replay("vscode-stub", &env).await;
}

/// Adds a user to the machine: only where that does no harm, for example as root in
/// `unshare -m sh -c 'cp -a /etc /tmp/etc; mount --bind /tmp/etc /etc; mount -t tmpfs none /home; exec cargo test …'`,
/// where nobody has the id 1000 and there are a group `sudo` and a file `/etc/sudoers`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "adds a user to the machine"]
async fn user_openhands() {
    replay("user-openhands", &[]).await;
}
