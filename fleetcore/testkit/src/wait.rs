//! Waiting for what is not announced.

use std::{fmt::Display, time::Duration};

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
