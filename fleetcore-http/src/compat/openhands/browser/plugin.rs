//! The browser of a runtime: started with the first action, started again when it is gone.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleetcore::Result;
use serde_json::{Map, Value, json};

use super::{
    super::{action::Browse, observation::Observation, options::Options, user::User},
    act::{Fault, Page},
    bind::{self, Step},
    chromium::{self, Chromium, Launch},
    files::{Download, Place},
    look::{self, Seen},
    text, tree,
};

/// How long an action may take; the original's.
const LIMIT: Duration = Duration::from_secs(120);
/// How long a page has to show that it is well, after an action that took too long.
const WELL: Duration = Duration::from_secs(3);
/// What everything is answered with where there is no browser.
pub(in super::super) const NONE: &str = "Browser functionality is not supported or disabled.";
/// What the original says when an action takes too long.
const TOO_LONG: &str = "Browser environment took too long to respond.";

/// The browser, running or not.
#[derive(Debug)]
pub(in super::super) struct Browser {
    launch: Launch,
    place: Place,
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chromium: Option<Chromium>,
    /// Downloads the agent was told of.
    told: Vec<Download>,
}

impl Browser {
    /// The browser of a runtime, not started yet; `None` where there is none or none is wanted.
    ///
    /// # Errors
    /// When the directory of downloads cannot be made.
    pub(in super::super) fn new(
        options: &Options,
        user: Option<User>,
        owner: Option<(u32, u32)>,
    ) -> Result<Option<Self>> {
        if !options.browser {
            return Ok(None);
        }
        let Some(program) = chromium::find(&options.env) else {
            tracing::warn!("there is no Chromium in PATH; browser actions are answered with an error");
            return Ok(None);
        };
        let place = Place { dir: PathBuf::from(&options.working_dir), owner };
        place.prepare().map_err(|e| fleetcore::Error::io("make the directory of downloads", e))?;
        let launch = Launch { program, env: options.env.clone(), user, downloads: place.downloads() };
        Ok(Some(Self { launch, place, state: tokio::sync::Mutex::default() }))
    }

    /// Does an action. `cwd` is where the shell is.
    pub(in super::super) async fn act(
        &self,
        browse: &Browse,
        cwd: &str,
        timeout: Option<f64>,
    ) -> Observation {
        let mut state = self.state.lock().await;
        if state.chromium.as_ref().is_some_and(|c| c.cdp.closed())
            && let Some(dead) = state.chromium.take()
        {
            tracing::warn!("the browser is gone; another one is started");
            dead.stop().await;
        }
        // Taken out: dropped in the middle of an action, nobody knows where it is.
        let chromium = match state.chromium.take() {
            Some(chromium) => chromium,
            None => match Chromium::start(&self.launch).await {
                Ok(chromium) => chromium,
                Err(error) => {
                    tracing::error!(%error, "no browser");
                    return Observation::error(NONE);
                }
            },
        };
        let asked = timeout.filter(|t| *t > 0.0).and_then(|t| Duration::try_from_secs_f64(t).ok());
        let limit = asked.map_or(LIMIT, |asked| asked.min(LIMIT));
        let outcome = tokio::time::timeout(limit, self.step(&chromium, browse, cwd)).await;
        let said = match outcome {
            Ok(Ok((seen, error))) => {
                state.chromium = Some(chromium);
                return self.answer(&mut state, browse, seen, error).await;
            }
            Ok(Err(Fault::Raised(text))) => {
                state.chromium = Some(chromium);
                text
            }
            Ok(Err(Fault::Gone)) => {
                chromium.stop().await;
                "The browser died. The next action has a new one, and its pages are lost.".to_owned()
            }
            Err(_) if well(&chromium).await => {
                state.chromium = Some(chromium);
                TOO_LONG.to_owned()
            }
            Err(_) => {
                tracing::warn!("a page does not stop; its browser is ended");
                chromium.stop().await;
                TOO_LONG.to_owned()
            }
        };
        failed(browse, &said)
    }

    /// Does what is asked for and looks at what came of it, and at the error of it.
    async fn step(&self, chromium: &Chromium, browse: &Browse, cwd: &str) -> Result<(Seen, String), Fault> {
        let steps = match browse {
            Browse::Visit { url, .. } => Ok(vec![Step::Goto(address(url))]),
            Browse::Code { code, .. } => bind::steps(code),
        };
        let done = match steps {
            Ok(steps) => run(chromium, &steps, cwd).await,
            Err(wrong) => Err(Fault::Raised(wrong)),
        };
        let error = match done {
            Ok(()) => String::new(),
            Err(Fault::Raised(text)) => text,
            Err(Fault::Gone) => return Err(Fault::Gone),
        };
        look::settle(&chromium.cdp).await?;
        let with_tree = browse.wants_tree() || matches!(browse, Browse::Code { .. });
        Ok((look::look(&chromium.cdp, with_tree).await?, error))
    }

    async fn answer(&self, state: &mut State, browse: &Browse, seen: Seen, error: String) -> Observation {
        if let Browse::Code { code, .. } = browse
            && !error.is_empty()
            && let Some(file) = self.download(state).await
        {
            let content = format!(
                "Execution of the previous action {code} resulted in a file download. The downloaded file is saved at \
                 location: {file}"
            );
            return Observation::downloaded(&file, content);
        }
        let path = self.keep(&seen.screenshot).await;
        let wants_tree = browse.wants_tree();
        // Large pages are written where they hold nobody up.
        let text = browse.clone();
        let written =
            tokio::task::spawn_blocking(move || written(&text, &seen, path.as_deref(), error, wants_tree));
        match written.await {
            Ok(observation) => observation,
            Err(error) => failed(browse, &error.to_string()),
        }
    }

    /// The first download the agent was not told of.
    async fn download(&self, state: &mut State) -> Option<String> {
        let place = self.place.clone();
        let told = state.told.clone();
        let taken = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
            let Some(file) = place.downloaded()?.into_iter().find(|file| !told.contains(file)) else {
                return Ok(None);
            };
            let path = place.take(&file.name, told.len() + 1)?;
            Ok(Some((file, path.display().to_string())))
        });
        match taken.await.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            Ok(Some((file, path))) => {
                state.told.push(file);
                Some(path)
            }
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "a download is not handed over");
                None
            }
        }
    }

    /// Keeps the screenshot in the workspace.
    async fn keep(&self, screenshot: &str) -> Option<String> {
        let png = STANDARD.decode(screenshot).ok()?;
        let place = self.place.clone();
        let kept = tokio::task::spawn_blocking(move || place.screenshot(&png, &jiff::Zoned::now()));
        match kept.await.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            Ok(path) => Some(path.display().to_string()),
            Err(error) => {
                tracing::warn!(%error, "a screenshot is not kept");
                None
            }
        }
    }

    /// Ends the browser.
    pub(in super::super) async fn stop(&self) {
        if let Some(chromium) = self.state.lock().await.chromium.take() {
            chromium.stop().await;
        }
    }
}

async fn run(chromium: &Chromium, steps: &[Step], cwd: &str) -> Result<(), Fault> {
    for step in steps {
        let page = Page::ready(&chromium.cdp).await?;
        page.step(step, cwd).await?;
    }
    Ok(())
}

/// Whether the page can be used again, once it stops loading. Its scripts are not stopped: that might hit one of ours.
async fn well(chromium: &Chromium) -> bool {
    let Some(page) = Page::active(&chromium.cdp) else { return false };
    let stop = async {
        page.call("Page.stopLoading", json!({})).await.ok()?;
        let world = page.world(&page.target).await.ok()?;
        page.run(world, "settled", Vec::new(), true).await.ok()
    };
    tokio::time::timeout(WELL, stop).await.is_ok_and(|done| done.is_some())
}

/// An address; a path is that of a file.
fn address(url: &str) -> String {
    if url.starts_with('/') { format!("file://{url}") } else { url.to_owned() }
}

/// What was done, as the original writes it.
fn code(browse: &Browse) -> String {
    match browse {
        Browse::Visit { url, .. } => format!("goto(\"{}\")", address(url)),
        Browse::Code { code, .. } => code.clone(),
    }
}

fn error_lines(browse: &Browse, error: &str) -> String {
    let doing = match browse {
        Browse::Visit { .. } => "trying to visit the URL",
        Browse::Code { .. } => "executing the last action",
    };
    format!(
        "================ BEGIN error message ===============\nThe following error occurred when {doing}:\n{error}\n\
         ================ END error message ===============\n"
    )
}

fn head(browse: &Browse, url: &str, focused: &str, path: Option<&str>, error: &str) -> String {
    let mut text = format!("[Current URL: {url}]\n");
    if let Browse::Code { .. } = browse {
        text.push_str(&format!("[Focused element bid: {focused}]\n"));
        if let Some(path) = path {
            text.push_str(&format!("[Screenshot saved to: {path}]\n"));
        }
        text.push('\n');
    }
    if !error.is_empty() {
        text.push_str(&error_lines(browse, error));
    } else if let Browse::Code { .. } = browse {
        text.push_str("[Action executed successfully.]\n");
    }
    text
}

fn web_page(text: &str) -> String {
    format!(
        "============== BEGIN webpage content ==============\n{text}\n\
         ============== END webpage content ==============\n"
    )
}

fn written(browse: &Browse, seen: &Seen, path: Option<&str>, error: String, wants_tree: bool) -> Observation {
    let mut content = head(browse, &seen.url, &seen.focused, path, &error);
    match browse {
        Browse::Visit { .. } => content.push_str(&web_page(&text::page(&seen.dom))),
        Browse::Code { .. } => {
            let tree = tree::text(&seen.tree, &seen.properties);
            content.push_str(&format!(
                "Accessibility tree of the COMPLETE webpage:\nNote: [bid] is the unique alpha-numeric identifier at the \
                 beginning of lines for each element in the AXTree. Always use bid to refer to elements in your \
                 actions.\n============== BEGIN accessibility tree ==============\n{tree}\n\
                 ============== END accessibility tree ==============\n"
            ));
        }
    }
    let picture = |png: &str| format!("data:image/png;base64,{png}");
    let (tree, properties) = match wants_tree {
        true => (seen.tree.clone(), Value::Object(seen.properties.clone())),
        false => (json!({}), json!({})),
    };
    let extras = json!({
        "url": seen.url,
        "trigger_by_action": browse.name(),
        "screenshot": picture(&seen.screenshot),
        "screenshot_path": path,
        "set_of_marks": picture(&seen.marked),
        "error": !error.is_empty(),
        "goal_image_urls": [],
        "open_pages_urls": seen.pages,
        "active_page_index": seen.active,
        "dom_object": {},
        "axtree_object": tree,
        "extra_element_properties": properties,
        "last_browser_action": code(browse),
        "last_browser_action_error": error,
        "focused_element_bid": seen.focused,
        "filter_visible_only": false,
    });
    Observation::browsed(&seen.url, content, object(extras))
}

/// An action without anything to look at.
fn failed(browse: &Browse, error: &str) -> Observation {
    let url = match browse {
        Browse::Visit { url, .. } => url.as_str(),
        Browse::Code { .. } => "",
    };
    let mut content = head(browse, url, "", None, error);
    if let Browse::Visit { .. } = browse {
        content.push_str(&web_page(error));
    }
    let extras = json!({
        "url": url,
        "trigger_by_action": browse.name(),
        "screenshot": "",
        "screenshot_path": null,
        "set_of_marks": "",
        "error": true,
        "goal_image_urls": [],
        "open_pages_urls": [],
        "active_page_index": -1,
        "dom_object": {},
        "axtree_object": {},
        "extra_element_properties": {},
        "last_browser_action": "",
        "last_browser_action_error": error,
        "focused_element_bid": "",
        "filter_visible_only": false,
    });
    Observation::browsed(url, content, object(extras))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
