//! One test for each recording.

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
