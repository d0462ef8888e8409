//! What the browser tells by itself: its tabs, what they load, dialogs, downloads.

#![expect(
    clippy::indexing_slicing,
    reason = "only read: what a JSON value does not have is null, and no panic"
)]

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::cdp::Order;

/// The original's viewport.
pub(super) const VIEWPORT: (u32, u32) = (1280, 720);

/// The last thing a new tab is told: once this is answered it can be used.
pub(super) const LAST_ORDER: &str = "Runtime.runIfWaitingForDebugger";

/// A page.
#[derive(Clone, Debug)]
pub(super) struct Tab {
    /// Also the id of its main frame.
    pub(super) target: String,
    pub(super) session: String,
    pub(super) url: String,
    /// It has heard everything a new one is told; before, it would not tell what it does.
    pub(super) ready: bool,
    pub(super) loading: bool,
    /// Which document was loaded to its end.
    pub(super) loaded: Option<String>,
    /// Which document is there.
    pub(super) committed: Option<String>,
    pub(super) crashed: bool,
    /// Where the mouse is.
    pub(super) mouse: (f64, f64),
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct World {
    /// In the order they were opened.
    pub(super) tabs: Vec<Tab>,
    /// Targets; the last one is active.
    history: Vec<String>,
    /// Calls whose answer makes a tab one that can be used, and its session.
    opening: HashMap<u64, String>,
    /// Downloads that run.
    pub(super) downloads: Vec<String>,
    /// When the browser last told something.
    pub(super) heard: Instant,
    /// What is being dragged.
    pub(super) dragged: Option<Value>,
    /// The file input that wants files.
    pub(super) chooser: Option<u64>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            tabs: Vec::new(),
            history: Vec::new(),
            opening: HashMap::new(),
            downloads: Vec::new(),
            heard: Instant::now(),
            dragged: None,
            chooser: None,
        }
    }
}

impl World {
    /// This call is the last order to the tab of a session.
    pub(super) fn opens(&mut self, call: u64, session: &str) {
        self.opening.insert(call, session.to_owned());
    }

    /// A call was answered; whether that makes a tab one that can be used.
    pub(super) fn answered(&mut self, call: u64) -> bool {
        let Some(session) = self.opening.remove(&call) else { return false };
        let tab = self.tabs.iter_mut().find(|tab| tab.session == session);
        tab.map(|tab| tab.ready = true).is_some()
    }

    /// Whether something is about to be another page, or about to arrive.
    pub(super) fn busy(&self) -> bool {
        self.tabs.iter().any(|tab| tab.loading || !tab.ready) || !self.downloads.is_empty()
    }

    /// Makes a tab the active one.
    pub(super) fn activate(&mut self, target: &str) {
        self.history.retain(|t| t != target);
        self.history.push(target.to_owned());
    }

    /// The active tab and its place.
    pub(super) fn active(&self) -> Option<(usize, &Tab)> {
        let target = self.history.last()?;
        self.tabs.iter().enumerate().find(|(_, t)| t.target == *target)
    }

    /// A tab by its target.
    pub(super) fn tab(&mut self, target: &str) -> Option<&mut Tab> {
        self.tabs.iter_mut().find(|t| t.target == target)
    }

    /// Hears what the browser tells; what is to be sent because of it.
    pub(super) fn hear(&mut self, method: &str, session: Option<&str>, params: &Value) -> Vec<Order> {
        let text = |key: &str| params[key].as_str().unwrap_or_default();
        let main = |tab: &Tab| tab.target == text("frameId");
        if !matches!(method, "Browser.downloadProgress" | "Target.targetInfoChanged") {
            self.heard = Instant::now();
        }
        match method {
            "Target.attachedToTarget" => return self.attached(params),
            "Target.detachedFromTarget" => {
                let gone = text("sessionId");
                self.opening.retain(|_, session| session != gone);
                if let Some(at) = self.tabs.iter().position(|t| t.session == gone) {
                    let tab = self.tabs.remove(at);
                    self.history.retain(|t| *t != tab.target);
                }
                return Vec::new();
            }
            "Browser.downloadWillBegin" => self.downloads.push(text("guid").to_owned()),
            "Browser.downloadProgress" if text("state") != "inProgress" => {
                self.downloads.retain(|d| d != text("guid"));
                self.heard = Instant::now();
            }
            _ => {}
        }
        let Some(tab) = self.tabs.iter_mut().find(|t| Some(t.session.as_str()) == session) else {
            return Vec::new();
        };
        match method {
            "Page.frameNavigated" if params["frame"]["parentId"].is_null() => {
                let frame = &params["frame"];
                let part = |key: &str| frame[key].as_str().unwrap_or_default();
                tab.url = format!("{}{}", part("url"), part("urlFragment"));
                tab.committed = Some(part("loaderId").to_owned());
            }
            "Page.navigatedWithinDocument" if main(tab) => tab.url = text("url").to_owned(),
            "Page.frameStartedLoading" if main(tab) => tab.loading = true,
            "Page.frameStoppedLoading" if main(tab) => tab.loading = false,
            "Page.lifecycleEvent" if main(tab) && text("name") == "load" => {
                tab.loaded = Some(text("loaderId").to_owned());
            }
            "Inspector.targetCrashed" => tab.crashed = true,
            "Page.fileChooserOpened" => self.chooser = params["backendNodeId"].as_u64(),
            "Input.dragIntercepted" => self.dragged = Some(params["data"].clone()),
            // As the original's library does when nobody asks for them.
            "Page.javascriptDialogOpening" => {
                let accept = text("type") == "beforeunload";
                let order = json!({ "accept": accept });
                return vec![(tab.session.clone(), "Page.handleJavaScriptDialog", order)];
            }
            _ => {}
        }
        Vec::new()
    }

    fn attached(&mut self, params: &Value) -> Vec<Order> {
        let info = &params["targetInfo"];
        let session = params["sessionId"].as_str().unwrap_or_default().to_owned();
        let mut orders = Vec::new();
        if info["type"] == "page" {
            let target = info["targetId"].as_str().unwrap_or_default().to_owned();
            let url = info["url"].as_str().unwrap_or_default();
            let tab = Tab {
                target: target.clone(),
                session: session.clone(),
                url: if url.is_empty() { "about:blank" } else { url }.to_owned(),
                ready: false,
                loading: false,
                loaded: None,
                committed: None,
                crashed: false,
                mouse: (0.0, 0.0),
            };
            self.tabs.push(tab);
            self.activate(&target);
            let (width, height) = VIEWPORT;
            let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
            orders.extend([
                (session.clone(), "Page.enable", json!({})),
                (session.clone(), "Page.setLifecycleEventsEnabled", json!({ "enabled": true })),
                (session.clone(), "Inspector.enable", json!({})),
                (session.clone(), "Emulation.setDeviceMetricsOverride", size),
                (session.clone(), "Emulation.setFocusEmulationEnabled", json!({ "enabled": true })),
            ]);
        }
        orders.push((session, LAST_ORDER, json!({})));
        orders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(world: &mut World, name: &str) {
        let info = json!({ "targetId": name, "type": "page", "url": "" });
        let params = json!({ "sessionId": format!("s-{name}"), "targetInfo": info });
        assert!(world.hear("Target.attachedToTarget", None, &params).len() > 1);
    }

    #[test]
    fn the_newest_tab_is_active_and_after_it_the_one_before() {
        let mut world = World::default();
        for name in ["a", "b", "c"] {
            open(&mut world, name);
        }
        world.activate("a");
        let active = |w: &World| w.active().map(|(i, t)| (i, t.target.clone()));
        assert_eq!(active(&world), Some((0, "a".into())));
        world.hear("Target.detachedFromTarget", None, &json!({ "sessionId": "s-a" }));
        assert_eq!(active(&world), Some((1, "c".into())));
        let frame =
            json!({ "frame": { "id": "c", "url": "http://x/", "urlFragment": "#y", "loaderId": "l" } });
        world.hear("Page.frameNavigated", Some("s-c"), &frame);
        assert_eq!(world.tab("c").unwrap().url, "http://x/#y");
        let dialog = world.hear("Page.javascriptDialogOpening", Some("s-b"), &json!({ "type": "alert" }));
        assert_eq!(dialog, [("s-b".to_owned(), "Page.handleJavaScriptDialog", json!({ "accept": false }))]);
        world.hear("Browser.downloadWillBegin", None, &json!({ "guid": "g" }));
        assert_eq!(world.downloads.len(), 1);
        world.hear("Browser.downloadProgress", None, &json!({ "guid": "g", "state": "completed" }));
        assert!(world.downloads.is_empty());
    }
}
