//! Finding a Chromium, starting it, ending it.

use std::{
    collections::BTreeMap,
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use fleetcore::{Error, ErrorKind, Result};
use serde_json::json;

use super::{
    super::{
        helper::{self, Helper, Output, Start},
        user::{User, chown_tree},
    },
    cdp::Cdp,
    tabs::VIEWPORT,
};

/// Names it has where it is installed.
const NAMES: [&str; 6] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "chrome-headless-shell",
];
/// Which program to use, instead of looking for one.
const PROGRAM: &str = "FLEETCORE_CHROMIUM";
/// `1`: without Chromium's own sandbox, where the kernel does not let it have one.
const NO_SANDBOX: &str = "FLEETCORE_CHROMIUM_NO_SANDBOX";
/// How long it has to start.
const START: Duration = Duration::from_secs(30);
/// How long it has to end when it is asked to.
const GRACE: Duration = Duration::from_secs(3);

/// What it speaks on descriptors 3 and 4 is spoken on standard input and output; what else it says there is nothing.
const PIPES: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// How to start one.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) env: BTreeMap<String, String>,
    pub(super) user: Option<User>,
    pub(super) downloads: PathBuf,
}

/// One that runs. Dropped, its processes are ended and its profile is removed.
#[derive(Debug)]
pub(super) struct Chromium {
    pub(super) cdp: Cdp,
    helper: Helper,
    profile: tempfile::TempDir,
}

/// The program, if one is installed.
pub(super) fn find(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    if let Some(program) = env.get(PROGRAM).filter(|p| !p.is_empty()) {
        return helper::find(program, env);
    }
    if let Some(program) = NAMES.iter().find_map(|name| helper::find(name, env)) {
        return Some(program);
    }
    // Where Playwright puts its own, as in the original's images.
    let home = env.get("HOME").map(|home| format!("{home}/.cache/ms-playwright"));
    let places = env.get("PLAYWRIGHT_BROWSERS_PATH").cloned().into_iter().chain(home);
    places.filter_map(|place| std::fs::read_dir(place).ok()).find_map(|dir| {
        let mut found: Vec<_> =
            dir.filter_map(|e| Some(e.ok()?.path().join("chrome-linux/chrome"))).collect();
        found.sort();
        found.into_iter().rev().find_map(|p| helper::find(&p.to_string_lossy(), env))
    })
}

fn args(launch: &Launch, profile: &Path) -> Vec<String> {
    let (width, height) = VIEWPORT;
    let mut args: Vec<String> = [
        "--headless",
        "--remote-debugging-pipe",
        "--no-startup-window",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
        "--disable-back-forward-cache",
        "--disable-background-timer-throttling",
        "--disable-backgrounding-occluded-windows",
        "--disable-breakpad",
        "--disable-client-side-phishing-detection",
        "--disable-component-extensions-with-background-pages",
        "--disable-component-update",
        "--disable-crash-reporter",
        "--disable-default-apps",
        "--disable-dev-shm-usage",
        "--disable-extensions",
        "--disable-field-trial-config",
        "--disable-gpu",
        "--disable-popup-blocking",
        "--disable-prompt-on-repost",
        "--disable-renderer-backgrounding",
        "--disable-search-engine-choice-screen",
        "--disable-sync",
        // Frames of other sites in the process of their page: all of a page is seen over one session.
        "--disable-site-isolation-trials",
        "--disable-features=IsolateOrigins,site-per-process,Translate,MediaRouter,OptimizationHints,PaintHolding,\
         HttpsUpgrades,DialMediaRouteProvider",
        "--force-color-profile=srgb",
        "--hide-scrollbars",
        "--mute-audio",
        "--metrics-recording-only",
        "--password-store=basic",
        "--use-mock-keychain",
    ]
    .map(str::to_owned)
    .to_vec();
    args.push(format!("--window-size={width},{height}"));
    args.push(format!("--user-data-dir={}", profile.join("profile").display()));
    let root = rustix::process::geteuid().is_root() && launch.user.as_ref().is_none_or(|user| user.uid == 0);
    // Chromium refuses to sandbox itself for root.
    if root || launch.env.get(NO_SANDBOX).is_some_and(|v| v == "1") {
        args.push("--no-sandbox".to_owned());
    }
    args
}

impl Chromium {
    /// Starts one with an empty profile and one empty page. Dropped before it is done, nothing is left.
    ///
    /// # Errors
    /// When it does not start, with its last words.
    pub(super) async fn start(launch: &Launch) -> Result<Self> {
        let failed = |e| Error::io("make the browser's profile", e);
        let profile = tempfile::Builder::new()
            .prefix("fleetcore-chromium-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(failed)?;
        if let Some(user) = &launch.user {
            chown_tree(profile.path(), user.uid, user.gid).map_err(failed)?;
        }
        let mut env = launch.env.clone();
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR", "HOME"] {
            env.insert(name.to_owned(), profile.path().display().to_string());
        }
        // Nothing it could find a session bus or a display by: it has no use for them.
        for name in ["DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY"] {
            env.remove(name);
        }
        let mut all = vec!["-c".to_owned(), PIPES.to_owned(), "chromium".to_owned()];
        all.push(launch.program.display().to_string());
        all.extend(args(launch, profile.path()));
        let start = Start {
            name: "chromium".to_owned(),
            program: "/bin/sh".into(),
            args: all,
            env,
            dir: profile.path().to_owned(),
            user: launch.user.clone(),
        };
        let mut helper = Helper::start(&start, Output::Protocol, |_| {}).map_err(|e| {
            Error::io("start the browser", e).with_context("program", launch.program.display())
        })?;
        let none = || Error::new(ErrorKind::Unexpected, "the browser has no pipes");
        let (from, to) = helper.protocol().ok_or_else(none)?;
        let mut chromium = Self { cdp: Cdp::new(from, to), helper, profile };
        match tokio::time::timeout(START, chromium.prepare(launch)).await {
            Ok(Ok(())) => Ok(chromium),
            Ok(Err(why)) => {
                let how = chromium.helper.status().map_or_else(String::new, |s| s.to_string());
                Err(Error::new(ErrorKind::Unavailable, "the browser does not start")
                    .with_context("program", launch.program.display())
                    .with_context("why", why)
                    .with_context("how", how)
                    .with_context("said", chromium.helper.last_words())
                    .with_context(
                        "hint",
                        "where Chromium cannot sandbox itself, set FLEETCORE_CHROMIUM_NO_SANDBOX=1",
                    ))
            }
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the browser takes too long to start")
                .with_context("program", launch.program.display())
                .with_context("said", chromium.helper.last_words())),
        }
    }

    async fn prepare(&mut self, launch: &Launch) -> Result<(), String> {
        let call = async |method: &str, params| {
            self.cdp.call(None, method, params).await.map_err(|e| format!("{method}: {e:?}"))
        };
        let behavior = json!({
            "behavior": "allow",
            "downloadPath": launch.downloads.display().to_string(),
            "eventsEnabled": true,
        });
        call("Browser.setDownloadBehavior", behavior).await?;
        let attach = json!({
            "autoAttach": true,
            "waitForDebuggerOnStart": true,
            "flatten": true,
            "filter": [{ "type": "page" }, { "exclude": true }],
        });
        call("Target.setAutoAttach", attach).await?;
        call("Target.createTarget", json!({ "url": "about:blank" })).await?;
        self.cdp
            .wait(|world| world.active().filter(|(_, tab)| tab.ready).map(|_| ()))
            .await
            .map_err(|e| format!("{e:?}"))
    }

    /// Ends it, and waits for its end.
    pub(super) async fn stop(self) {
        let Self { cdp, mut helper, profile } = self;
        let close = async {
            let _ = cdp.call(None, "Browser.close", json!({})).await;
            let _ = helper.ended().await;
        };
        if tokio::time::timeout(GRACE, close).await.is_err() {
            tracing::debug!("the browser does not end by itself");
        }
        cdp.close();
        helper.stop().await;
        if let Err(error) = remove(profile).await {
            tracing::warn!(%error, "the browser's profile is not removed");
        }
    }
}

/// Its processes may still be about to die, some of them by themselves, and write until then.
async fn remove(profile: tempfile::TempDir) -> std::io::Result<()> {
    const TRIES: usize = 50;
    let mut again = tokio::time::interval(Duration::from_millis(20));
    let path = profile.path().to_owned();
    let mut last = Ok(());
    for _ in 0..TRIES {
        again.tick().await;
        last = match tokio::fs::remove_dir_all(&path).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        if last.is_ok() {
            break;
        }
    }
    last
}
