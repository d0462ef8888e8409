//! Doing what an agent wants done on a page.

#![expect(
    clippy::indexing_slicing,
    reason = "only read: what a JSON value does not have is null, and no panic"
)]

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};

use super::{
    super::python::Py,
    bind::{Button, Step},
    cdp::{CLOSED, Cdp, Failed, part},
    keys::{self, Key},
    tabs::Tab,
};

/// What runs in the page.
const SCRIPT: &str = include_str!("page.js");
/// Name of the world it runs in.
const WORLD: &str = "fleetcore";
/// How long an element has to become one that can be acted on; the original's.
const ELEMENT: u64 = 500;
/// How long a page has to load; the original's.
const LOAD: Duration = Duration::from_secs(100);
/// How long a click has to ask for files.
const CHOOSER: Duration = Duration::from_secs(10);
/// Longest `noop`.
const NOOP: f64 = 100_000.0;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// In the words the original raises.
    Raised(String),
    /// There is no browser any more.
    Gone,
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Said(text) => Self::Raised(format!("Error: {text}")),
            Failed::Gone => Self::Gone,
        }
    }
}

fn raised<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Raised(text.into()))
}

/// A page to act on.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) cdp: Cdp,
    pub(super) target: String,
    session: String,
}

/// An element, as the browser numbers them.
#[derive(Clone, Debug)]
pub(super) struct Element(pub(super) String);

impl Page {
    /// The active one.
    pub(super) fn active(cdp: &Cdp) -> Option<Self> {
        let of =
            |tab: &Tab| Self { cdp: cdp.clone(), target: tab.target.clone(), session: tab.session.clone() };
        cdp.world(|world| world.active().map(|(_, tab)| of(tab)))
    }

    /// The active one, once it can be used; a new one when there is none.
    pub(super) async fn ready(cdp: &Cdp) -> Result<Self, Failed> {
        loop {
            if cdp.world(|world| world.active().is_none()) {
                open(cdp).await?;
            }
            let found = cdp.wait(|world| match world.active() {
                Some((_, tab)) if tab.ready => Some(true),
                Some(_) => None,
                None => Some(false),
            });
            if found.await?
                && let Some(page) = Self::active(cdp)
            {
                return Ok(page);
            }
        }
    }

    /// Calls a method of the page.
    pub(super) async fn call(&self, method: &str, params: Value) -> Result<Value, Failed> {
        self.cdp.call(Some(&self.session), method, params).await
    }

    /// Our world in a frame.
    pub(super) async fn world(&self, frame: &str) -> Result<Value, Failed> {
        let params = json!({ "frameId": frame, "worldName": WORLD });
        Ok(part(self.call("Page.createIsolatedWorld", params).await?, "/executionContextId"))
    }

    /// One of our functions in a world (a number) or of an element (a text); its value, or the element it found.
    pub(super) async fn run(
        &self,
        on: Value,
        what: &str,
        args: Vec<Value>,
        value: bool,
    ) -> Result<Value, Failed> {
        let mut arguments = vec![json!({ "value": what })];
        arguments.extend(args.into_iter().map(|value| json!({ "value": value })));
        let key = if on.is_string() { "objectId" } else { "executionContextId" };
        let params = json!({
            "functionDeclaration": SCRIPT,
            "arguments": arguments,
            key: on,
            "returnByValue": value,
            "awaitPromise": true,
        });
        let answer = self.call("Runtime.callFunctionOn", params).await?;
        if let Some(wrong) = answer.get("exceptionDetails") {
            let text = wrong["exception"]["description"].as_str().or(wrong["text"].as_str());
            return Err(Failed::Said(text.unwrap_or("exception").to_owned()));
        }
        Ok(part(answer, if value { "/result/value" } else { "/result/objectId" }))
    }

    /// One of our functions of an element; its value.
    pub(super) async fn of(&self, element: &Element, what: &str, args: Vec<Value>) -> Result<Value, Failed> {
        self.run(element.0.as_str().into(), what, args, true).await
    }

    /// The frame that an element is.
    pub(super) async fn frame_of(&self, element: &Element) -> Result<Option<String>, Failed> {
        let node = self.call("DOM.describeNode", json!({ "objectId": element.0 })).await?;
        Ok(node["node"]["frameId"].as_str().map(str::to_owned))
    }

    /// An element by its mark, which tells the frames it is in: `aB12` is in `aB`, which is in `a`.
    async fn element(&self, bid: &Py) -> Result<Element, Fault> {
        let Py::Str(bid) = bid else {
            return raised(format!("ValueError: expected a string, got {bid}"));
        };
        let none = || Fault::Raised(format!("ValueError: Could not find element with bid \"{bid}\""));
        let mut frame = self.target.clone();
        for end in frames(bid) {
            let outer = self.find(&frame, bid.get(..end).unwrap_or_default()).await?.ok_or_else(none)?;
            frame = self.frame_of(&outer).await?.ok_or_else(none)?;
        }
        self.find(&frame, bid).await?.ok_or_else(none)
    }

    async fn find(&self, frame: &str, bid: &str) -> Result<Option<Element>, Fault> {
        let world = self.world(frame).await?;
        let found = self.run(world, "find", vec![bid.into()], false).await?;
        Ok(found.as_str().map(|id| Element(id.to_owned())))
    }

    /// An element that can be acted on.
    async fn able(&self, bid: &Py, method: &str, wants: &[&str]) -> Result<Element, Fault> {
        let element = self.element(bid).await?;
        match self.of(&element, "ready", vec![json!(wants), ELEMENT.into()]).await?.as_str() {
            None => Ok(element),
            Some(why) => Err(timed_out(method, bid, why)),
        }
    }

    /// The middle of an element, as the mouse sees it.
    async fn middle(&self, element: &Element) -> Result<(f64, f64), Fault> {
        let quads = self.call("DOM.getContentQuads", json!({ "objectId": element.0 })).await?;
        let quad: Vec<f64> =
            quads["quads"][0].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let middle = |at: usize| quad.iter().skip(at).step_by(2).sum::<f64>() / 4.0;
        if quad.len() == 8 { Ok((middle(0), middle(1))) } else { raised("Error: Element is not visible") }
    }

    async fn mouse(&self, kind: &str, at: (f64, f64), more: Value) -> Result<(), Fault> {
        let mut params = json!({ "type": kind, "x": at.0, "y": at.1 });
        if let (Some(params), Value::Object(more)) = (params.as_object_mut(), more) {
            params.extend(more);
        }
        self.cdp.world(|world| world.tab(&self.target).map(|tab| tab.mouse = at));
        match self.call("Input.dispatchMouseEvent", params).await {
            // A click may close its page.
            Err(Failed::Said(text)) if text == CLOSED => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    async fn move_to(&self, bid: &Py, method: &str, wants: &[&str]) -> Result<(f64, f64), Fault> {
        let element = self.able(bid, method, wants).await?;
        let at = self.middle(&element).await?;
        self.mouse("mouseMoved", at, json!({})).await?;
        Ok(at)
    }

    async fn click(&self, bid: &Py, button: Button, modifiers: u8, count: u8) -> Result<(), Fault> {
        let at = self.move_to(bid, "click", &["enabled", "point"]).await?;
        for click in 1..=count {
            let more = json!({ "button": button.name(), "clickCount": click, "modifiers": modifiers });
            self.mouse("mousePressed", at, more.clone()).await?;
            self.mouse("mouseReleased", at, more).await?;
        }
        Ok(())
    }

    async fn press(&self, keys: &[Key]) -> Result<(), Fault> {
        let mut modifiers = 0;
        for key in keys {
            modifiers |= key.modifier;
            self.call("Input.dispatchKeyEvent", key.down(modifiers)).await?;
        }
        for key in keys.iter().rev() {
            modifiers &= !key.modifier;
            self.call("Input.dispatchKeyEvent", key.up(modifiers)).await?;
        }
        Ok(())
    }

    async fn fill(&self, bid: &Py, text: &str, method: &str) -> Result<(), Fault> {
        let element = self.able(bid, method, &["enabled"]).await?;
        match self.of(&element, "fill", vec![text.into()]).await?.as_str() {
            Some("done") => Ok(()),
            Some("type") if text.is_empty() => {
                let keys = keys::combination("Delete").unwrap_or_default();
                self.press(&keys).await
            }
            Some("type") => Ok(self.call("Input.insertText", json!({ "text": text })).await.map(drop)?),
            Some(why) if why.starts_with("Error: ") => {
                raised(format!("Error: Locator.{method}: {why}\n{}", log(bid, None)))
            }
            why => Err(timed_out(method, bid, why.unwrap_or_default())),
        }
    }

    async fn drag(&self, from: &Py, to: &Py) -> Result<(), Fault> {
        let start = self.move_to(from, "hover", &["point"]).await?;
        self.cdp.world(|world| world.dragged = None);
        self.call("Input.setInterceptDrags", json!({ "enabled": true })).await?;
        let done = async {
            let held = json!({ "button": "left", "clickCount": 1, "buttons": 1 });
            self.mouse("mousePressed", start, held.clone()).await?;
            let element = self.able(to, "hover", &["point"]).await?;
            let end = self.middle(&element).await?;
            // A drag begins with the first move; the browser tells before it answers.
            let first = ((start.0 + end.0) / 2.0, (start.1 + end.1) / 2.0);
            self.mouse("mouseMoved", first, held.clone()).await?;
            self.mouse("mouseMoved", end, held).await?;
            if let Some(data) = self.cdp.world(|world| world.dragged.take()) {
                for kind in ["dragEnter", "dragOver", "drop"] {
                    let params = json!({ "type": kind, "x": end.0, "y": end.1, "data": data });
                    self.call("Input.dispatchDragEvent", params).await?;
                }
            }
            self.mouse("mouseReleased", end, json!({ "button": "left", "clickCount": 1 })).await
        };
        let done = done.await;
        self.call("Input.setInterceptDrags", json!({ "enabled": false })).await?;
        done
    }

    async fn upload(&self, bid: &Py, files: &[String], cwd: &str) -> Result<(), Fault> {
        let paths: Vec<PathBuf> = files.iter().map(|f| PathBuf::from(cwd).join(f)).collect();
        for path in &paths {
            if !tokio::fs::metadata(path).await.is_ok_and(|m| m.is_file()) {
                let path = path.display().to_string();
                return raised(format!(
                    "FileNotFoundError: [Errno 2] No such file or directory: {}",
                    Py::Str(path)
                ));
            }
        }
        self.cdp.world(|world| world.chooser = None);
        self.call("Page.setInterceptFileChooserDialog", json!({ "enabled": true })).await?;
        let chosen = async {
            self.click(bid, Button::Left, 0, 1).await?;
            let asked = self.cdp.wait(|world| world.chooser.take());
            let Ok(node) = tokio::time::timeout(CHOOSER, asked).await else {
                let limit = CHOOSER.as_millis();
                return raised(format!(
                    "TimeoutError: Timeout {limit}ms exceeded while waiting for event \"filechooser\""
                ));
            };
            let params = json!({ "files": paths, "backendNodeId": node? });
            Ok(self.call("DOM.setFileInputFiles", params).await.map(drop)?)
        };
        let chosen = chosen.await;
        self.call("Page.setInterceptFileChooserDialog", json!({ "enabled": false })).await?;
        chosen
    }

    /// Visits an address, until everything is loaded.
    pub(super) async fn goto(&self, url: &str) -> Result<(), Fault> {
        let log = format!("Call log:\n  - navigating to \"{url}\", waiting until \"load\"\n");
        let visit = async {
            let answer = match self.call("Page.navigate", json!({ "url": url })).await {
                Err(Failed::Said(text)) => {
                    return raised(format!(
                        "Error: Page.goto: Protocol error (Page.navigate): {text}\n{log}"
                    ));
                }
                other => other?,
            };
            if answer["isDownload"] == true {
                return raised(format!("Error: Page.goto: Download is starting\n{log}"));
            }
            if let Some(error) = answer["errorText"].as_str().filter(|e| !e.is_empty()) {
                // The page that says so comes after the answer.
                if error != "net::ERR_ABORTED" {
                    self.committed(answer["loaderId"].as_str()).await?;
                }
                return raised(format!("Error: Page.goto: {error} at {url}\n{log}"));
            }
            match answer["loaderId"].as_str() {
                Some(loader) => self.loaded(loader).await,
                // In the same document.
                None => Ok(()),
            }
        };
        match tokio::time::timeout(LOAD, visit).await {
            Ok(done) => done,
            Err(_) => {
                raised(format!("TimeoutError: Page.goto: Timeout {}ms exceeded.\n{log}", LOAD.as_millis()))
            }
        }
    }

    async fn committed(&self, loader: Option<&str>) -> Result<(), Fault> {
        let there = self.cdp.wait(|world| match world.tab(&self.target) {
            Some(tab) => (loader.is_none() || tab.committed.as_deref() == loader).then_some(()),
            None => Some(()),
        });
        match tokio::time::timeout(Duration::from_secs(3), there).await {
            Ok(there) => Ok(there?),
            // It may have been another one in the meantime.
            Err(_) => Ok(()),
        }
    }

    async fn loaded(&self, loader: &str) -> Result<(), Fault> {
        let wait = self.cdp.wait(|world| match world.tab(&self.target) {
            Some(tab) if tab.crashed => Some(Some("Page crashed")),
            // Another document has taken its place: a redirection by a script.
            Some(tab) if tab.loaded.as_deref() == Some(loader) => Some(None),
            Some(tab) if tab.committed.as_deref().is_some_and(|c| c != loader) && !tab.loading => Some(None),
            Some(_) => None,
            None => Some(Some(CLOSED)),
        });
        match wait.await? {
            None => Ok(()),
            Some(why) => raised(format!("Error: Page.goto: {why}")),
        }
    }

    async fn history(&self, by: i64) -> Result<(), Fault> {
        let history = self.call("Page.getNavigationHistory", json!({})).await?;
        let at = history["currentIndex"].as_i64().unwrap_or_default().saturating_add(by);
        let entry = usize::try_from(at).ok().and_then(|at| history["entries"].get(at));
        // At its end there is nothing to do, which is no error.
        let Some(entry) = entry else { return Ok(()) };
        let before = self
            .cdp
            .world(|world| world.tab(&self.target).map(|tab| (tab.committed.clone(), tab.url.clone())));
        let params = json!({ "entryId": entry["id"] });
        self.call("Page.navigateToHistoryEntry", params).await?;
        let moved = self.cdp.wait(|world| {
            let tab = world.tab(&self.target)?;
            let now = Some((tab.committed.clone(), tab.url.clone()));
            let there = now != before && (tab.loaded == tab.committed || !tab.loading);
            there.then_some(())
        });
        match tokio::time::timeout(LOAD, moved).await {
            Ok(moved) => Ok(moved?),
            Err(_) => {
                let name = if by < 0 { "go_back" } else { "go_forward" };
                raised(format!("TimeoutError: Page.{name}: Timeout {}ms exceeded.", LOAD.as_millis()))
            }
        }
    }

    /// Does one step. `cwd` is where relative names of files begin.
    pub(super) async fn step(&self, step: &Step, cwd: &str) -> Result<(), Fault> {
        match step {
            Step::Message => Ok(()),
            Step::Raise(text) => raised(text.clone()),
            Step::Noop(ms) => {
                // To pass this time is all that it is for.
                tokio::time::sleep(Duration::from_secs_f64(ms.clamp(0.0, NOOP) / 1000.0)).await;
                Ok(())
            }
            Step::Scroll(x, y) => {
                let at = self.cdp.world(|world| world.tab(&self.target).map(|tab| tab.mouse));
                let more = json!({ "deltaX": x, "deltaY": y });
                self.mouse("mouseWheel", at.unwrap_or_default(), more).await
            }
            Step::Fill(bid, text) => self.fill(bid, text, "fill").await,
            Step::Clear(bid) => self.fill(bid, "", "clear").await,
            Step::Select(bid, options) => {
                let element = self.able(bid, "select_option", &["enabled"]).await?;
                match self.of(&element, "select", vec![json!(options)]).await?.as_str() {
                    None => Ok(()),
                    Some(why) if why.starts_with("Error: ") => {
                        raised(format!("Error: Locator.select_option: {why}\n{}", log(bid, None)))
                    }
                    Some(why) => Err(timed_out("select_option", bid, why)),
                }
            }
            Step::Click { bid, button, modifiers, count } => {
                self.click(bid, *button, *modifiers, *count).await
            }
            Step::Hover(bid) => self.move_to(bid, "hover", &["point"]).await.map(drop),
            Step::Focus(bid) => {
                let element = self.element(bid).await?;
                Ok(self.of(&element, "focus", Vec::new()).await.map(drop)?)
            }
            Step::Press(bid, text) => {
                let keys = keys::combination(text).map_err(|name| {
                    Fault::Raised(format!("Error: Locator.press: Unknown key: \"{name}\""))
                })?;
                let element = self.element(bid).await?;
                self.of(&element, "focus", Vec::new()).await?;
                self.press(&keys).await
            }
            Step::Drag(from, to) => self.drag(from, to).await,
            Step::Upload(bid, files) => self.upload(bid, files, cwd).await,
            Step::Back => self.history(-1).await,
            Step::Forward => self.history(1).await,
            Step::Goto(url) => self.goto(url).await,
            Step::NewTab => Ok(open(&self.cdp).await?),
            Step::CloseTab => {
                // The last one is only closed when there is another: without any, the browser may end.
                if self.cdp.world(|world| world.tabs.len()) <= 1 {
                    open(&self.cdp).await?;
                }
                let params = json!({ "targetId": self.target });
                self.cdp.call(None, "Target.closeTarget", params).await?;
                self.cdp.wait(|world| world.tab(&self.target).is_none().then_some(())).await?;
                // As in the original, the newest of those that are left.
                self.cdp.world(|world| {
                    if let Some(last) = world.tabs.last().map(|tab| tab.target.clone()) {
                        world.activate(&last);
                    }
                });
                front(&self.cdp).await
            }
            Step::FocusTab(index) => {
                let found = self.cdp.world(|world| {
                    let count = i64::try_from(world.tabs.len()).unwrap_or(i64::MAX);
                    let at = if *index < 0 { count.saturating_add(*index) } else { *index };
                    let target = usize::try_from(at).ok().and_then(|at| world.tabs.get(at))?.target.clone();
                    world.activate(&target);
                    Some(())
                });
                match found {
                    Some(()) => front(&self.cdp).await,
                    None => raised("IndexError: list index out of range"),
                }
            }
        }
    }
}

/// Opens a tab, which becomes the active one.
pub(super) async fn open(cdp: &Cdp) -> Result<(), Failed> {
    let made = cdp.call(None, "Target.createTarget", json!({ "url": "about:blank" })).await?;
    let target = made["targetId"].as_str().unwrap_or_default().to_owned();
    cdp.wait(|world| {
        world.tab(&target)?;
        world.activate(&target);
        Some(())
    })
    .await
}

async fn front(cdp: &Cdp) -> Result<(), Fault> {
    match Page::active(cdp) {
        Some(page) => Ok(page.call("Page.bringToFront", json!({})).await.map(drop)?),
        None => Ok(()),
    }
}

/// Where the names of the frames end that an element is in.
fn frames(bid: &str) -> Vec<usize> {
    let bytes = bid.as_bytes();
    let numeric = |rest: &[u8]| rest.iter().all(u8::is_ascii_digit);
    let mut ends = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty() && !numeric(rest)) {
        at += 1 + rest.iter().skip(1).take_while(|b| b.is_ascii_uppercase()).count();
        // The element may be a frame itself.
        if at < bytes.len() || !bytes.iter().all(u8::is_ascii_alphabetic) {
            ends.push(at);
        }
    }
    ends.retain(|end| bid.is_char_boundary(*end));
    ends
}

fn log(bid: &Py, why: Option<&str>) -> String {
    let bid = match bid {
        Py::Str(s) => s.clone(),
        other => other.to_string(),
    };
    let why = why.map_or_else(String::new, |why| format!("  - {why}\n"));
    format!("Call log:\n  - waiting for get_by_test_id(\"{bid}\")\n{why}")
}

fn timed_out(method: &str, bid: &Py, why: &str) -> Fault {
    Fault::Raised(format!(
        "TimeoutError: Locator.{method}: Timeout {ELEMENT}ms exceeded.\n{}",
        log(bid, Some(why))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_an_element() {
        for (bid, ends) in [
            ("12", vec![]),
            ("a5", vec![1]),
            ("aB12", vec![2]),
            ("abDb123", vec![1, 3, 4]),
            ("ab", vec![1]),
            ("a", vec![]),
        ] {
            assert_eq!(frames(bid), ends, "{bid}");
        }
    }
}
