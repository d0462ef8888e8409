//! Waiting for what is not announced.

use std::{fmt::Display, path::Path, time::Duration};

use tokio::time::{sleep, timeout};

/// Longest wait. Enough for a slow machine; nothing takes this long when all is well.
const LIMIT: Duration = Duration::from_secs(90);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again until there is something to see; `None` after a minute and a half in vain.
pub async fn sometime<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            sleep(PAUSE).await;
        }
    };
    timeout(LIMIT, looking).await.ok()
}

/// As [`sometime`]; in vain is a failure of the test, which says what was waited for.
pub async fn eventually<T>(what: impl Display, look: impl AsyncFnMut() -> Option<T>) -> T {
    sometime(look).await.unwrap_or_else(|| crate::fail(format!("in vain: {what}")))
}

/// Looks again and again until it holds; in vain is a failure of the test.
pub async fn until(what: impl Display, mut holds: impl FnMut() -> bool) {
    eventually(what, async || holds().then_some(())).await;
}

/// The first line of a file, once it is there and whole.
pub async fn line_of(path: &Path) -> String {
    let line = async || {
        let text = std::fs::read_to_string(path).ok()?;
        text.ends_with('\n').then(|| text.trim().to_owned())
    };
    eventually(format_args!("a line in {}", path.display()), line).await
}

/// Waits until there is no process with this id.
pub async fn gone(pid: &str) {
    until(format_args!("process {pid} is gone"), || !Path::new("/proc").join(pid).exists()).await;
}
