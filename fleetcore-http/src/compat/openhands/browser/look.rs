//! Looking at a page: its elements are marked, and then everything about it is asked for.

#![expect(
    clippy::indexing_slicing,
    reason = "only read: what a JSON value does not have is null, and no panic"
)]

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    act::{Element, Fault, Page},
    cdp::{Cdp, Failed, part},
    snapshot,
};

/// Everything has happened that was about to when the browser told nothing for so long.
const QUIET: Duration = Duration::from_millis(150);
/// Longest wait for that; the original's for each page.
const SETTLE: Duration = Duration::from_secs(3);
/// How often a page that changes while it is looked at is looked at again; the original's.
const TRIES: usize = 5;
/// Frames within frames that are looked at.
const NESTED: usize = 16;

/// What was seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) url: String,
    pub(super) pages: Vec<String>,
    pub(super) active: usize,
    /// Base64 of a PNG.
    pub(super) screenshot: String,
    pub(super) marked: String,
    pub(super) dom: Value,
    pub(super) tree: Value,
    pub(super) properties: Map<String, Value>,
    pub(super) focused: String,
}

/// Waits until the browser has nothing more to tell for now.
pub(super) async fn settle(cdp: &Cdp) -> Result<(), Fault> {
    let end = Instant::now() + SETTLE;
    loop {
        if let Some(page) = Page::active(cdp).filter(|_| cdp.world(|world| !world.busy())) {
            // Behind what its scripts are about to do.
            let ask = async {
                let world = page.world(&page.target).await?;
                page.run(world, "settled", Vec::new(), true).await
            };
            // A page that is about to be another one, or is gone, has no world.
            match tokio::time::timeout_at(end, ask).await {
                Ok(Err(Failed::Gone)) => return Err(Fault::Gone),
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
        let (busy, heard) = cdp.world(|world| (world.busy(), world.heard));
        let now = Instant::now();
        if now >= end || (!busy && now >= heard + QUIET) {
            return Ok(());
        }
        let until = if busy { end } else { (heard + QUIET).min(end) };
        // Something new, or quiet.
        let news = cdp.wait(|world| (world.heard > heard || world.busy() != busy).then_some(()));
        if let Ok(Err(_)) = tokio::time::timeout_at(until, news).await {
            return Err(Fault::Gone);
        }
    }
}

/// Looks at the active page; opens one when there is none. The tree of a large page is larger than all the rest.
pub(super) async fn look(cdp: &Cdp, with_tree: bool) -> Result<Seen, Fault> {
    let mut last = Fault::Gone;
    for _ in 0..TRIES {
        let page = Page::ready(cdp).await?;
        match once(&page, with_tree).await {
            Ok(seen) => return Ok(seen),
            Err(Fault::Gone) => return Err(Fault::Gone),
            // It became another one in the middle of it.
            Err(fault) => last = fault,
        }
        settle(cdp).await?;
    }
    Err(last)
}

async fn once(page: &Page, with_tree: bool) -> Result<Seen, Fault> {
    let tree = part(page.call("Page.getFrameTree", json!({})).await?, "/frameTree");
    mark(page, &tree, String::new(), 0).await?;
    let dom = json!({ "computedStyles": [], "includeDOMRects": true, "includePaintOrder": false });
    let dom = page.call("DOMSnapshot.captureSnapshot", dom).await?;
    let merged = if with_tree { merged(page, &tree).await? } else { json!({}) };
    let focused = focused(page).await?;
    unmark(page, &tree).await;
    let picture = json!({ "format": "png" });
    let picture = page.call("Page.captureScreenshot", picture).await?;
    let Value::String(screenshot) = part(picture, "/data") else {
        return Err(Fault::Raised("Error: Protocol error (Page.captureScreenshot): no picture".to_owned()));
    };
    let read = tokio::task::spawn_blocking(move || (snapshot::properties(&dom), dom)).await;
    let (properties, dom) = read.map_err(|e| Fault::Raised(format!("Error: {e}")))?;
    let marked = boxes(page, &screenshot, &properties).await.unwrap_or_else(|| screenshot.clone());
    let (url, pages, active) = page.cdp.world(|world| {
        let pages = world.tabs.iter().map(|tab| tab.url.clone()).collect::<Vec<_>>();
        let active = world.tabs.iter().position(|tab| tab.target == page.target).unwrap_or_default();
        (pages.get(active).cloned().unwrap_or_default(), pages, active)
    });
    Ok(Seen { url, pages, active, screenshot, marked, dom, tree: merged, properties, focused })
}

/// The elements of a frame and of those in it, whose marks begin with the mark of their frame.
fn mark<'a>(
    page: &'a Page,
    tree: &'a Value,
    prefix: String,
    depth: usize,
) -> BoxFuture<'a, Result<(), Fault>> {
    async move {
        let id = tree["frame"]["id"].as_str().unwrap_or_default();
        let world = page.world(id).await?;
        page.run(world.clone(), "mark", vec![prefix.into()], true).await?;
        for child in tree["childFrames"].as_array().into_iter().flatten() {
            if let Some(prefix) = owner(page, child, &world).await.filter(|_| depth < NESTED) {
                mark(page, child, prefix, depth + 1).await?;
            }
        }
        Ok(())
    }
    .boxed()
}

/// The mark of a frame's element; none when scripts cannot run in it.
async fn owner(page: &Page, frame: &Value, world: &Value) -> Option<String> {
    let owner = page.call("DOM.getFrameOwner", json!({ "frameId": frame["frame"]["id"] })).await.ok()?;
    let params = json!({ "backendNodeId": owner["backendNodeId"], "executionContextId": world });
    let object = page.call("DOM.resolveNode", params).await.ok()?;
    let element = Element(object["object"]["objectId"].as_str()?.to_owned());
    let about = page.of(&element, "frame", Vec::new()).await.ok()?;
    let sandboxed = about[1].as_str().is_some_and(|s| !s.split_whitespace().any(|w| w == "allow-scripts"));
    if sandboxed { None } else { about[0].as_str().map(str::to_owned) }
}

async fn unmark(page: &Page, tree: &Value) {
    for frame in frames(tree) {
        // It may be gone, and its marks with it.
        if let Ok(world) = page.world(&frame).await {
            let _ = page.run(world, "unmark", Vec::new(), true).await;
        }
    }
}

/// Frames in the order the original looks at them.
fn frames(tree: &Value) -> Vec<String> {
    let mut ids = Vec::new();
    let mut open = vec![tree];
    while let Some(tree) = open.pop() {
        open.extend(tree["childFrames"].as_array().into_iter().flatten());
        ids.push(tree["frame"]["id"].as_str().unwrap_or_default().to_owned());
    }
    ids
}

/// The accessibility trees of all frames as one.
async fn merged(page: &Page, tree: &Value) -> Result<Value, Fault> {
    let mut trees = Vec::new();
    for frame in frames(tree) {
        let answer = match page.call("Accessibility.getFullAXTree", json!({ "frameId": frame })).await {
            // A frame of another process, or one that is gone.
            Err(Failed::Said(_)) if !trees.is_empty() => continue,
            other => other?,
        };
        if let Value::Array(mut nodes) = part(answer, "/nodes") {
            nodes.iter_mut().for_each(bid);
            trees.push((frame, nodes));
        }
    }
    let roots: Map<String, Value> = trees
        .iter()
        .filter_map(|(frame, nodes)| Some((frame.clone(), nodes.first()?["nodeId"].clone())))
        .collect();
    let mut all = Vec::new();
    for (_, mut nodes) in trees {
        for node in &mut nodes {
            if node["role"]["value"] != "Iframe" {
                continue;
            }
            let asked =
                page.call("DOM.describeNode", json!({ "backendNodeId": node["backendDOMNodeId"] })).await;
            let frame = asked.ok().and_then(|a| a["node"]["frameId"].as_str().map(str::to_owned));
            let root = frame.and_then(|frame| roots.get(&frame));
            if let (Some(root), Some(Value::Array(children))) = (root, node.get_mut("childIds")) {
                children.push(root.clone());
            }
        }
        all.append(&mut nodes);
    }
    Ok(json!({ "nodes": all }))
}

/// Takes the mark out of where it was put for the tree to carry it.
fn bid(node: &mut Value) {
    let mut found = None;
    if let Some(Value::Array(properties)) = node.get_mut("properties")
        && let Some(at) = properties.iter().position(|p| p["name"] == "roledescription")
        && let Some(property) = properties.get_mut(at)
    {
        let text = property["value"]["value"].as_str().unwrap_or_default().to_owned();
        if let Some((bid, rest)) = unmarked(&text) {
            found = Some(bid.to_owned());
            if rest.is_empty() {
                properties.remove(at);
            } else {
                set(property, "/value/value", rest);
            }
        }
    }
    if let Some(text) = node.get("description").and_then(|d| d["value"].as_str()).map(str::to_owned)
        && let Some((bid, rest)) = unmarked(&text)
    {
        found = found.or_else(|| Some(bid.to_owned()));
        match node.as_object_mut() {
            Some(map) if rest.is_empty() => {
                map.remove("description");
            }
            _ => set(node, "/description/value", rest),
        }
    }
    if let (Some(found), Some(map)) = (found, node.as_object_mut()) {
        map.insert("browsergym_id".to_owned(), found.into());
    }
}

fn set(of: &mut Value, pointer: &str, text: &str) {
    if let Some(value) = of.pointer_mut(pointer) {
        *value = text.into();
    }
}

/// The mark in a text, and the text without it.
fn unmarked(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("browsergym_id_")?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (bid, rest) = rest.split_at(end);
    let trimmed = rest.strip_prefix(char::is_whitespace).unwrap_or(rest);
    (!bid.is_empty()).then_some((bid, trimmed))
}

/// The mark of the focused element, in whichever frame it is.
async fn focused(page: &Page) -> Result<String, Fault> {
    let mut frame = page.target.clone();
    let mut mark = String::new();
    for _ in 0..NESTED {
        let world = page.world(&frame).await?;
        let found = page.run(world, "focused", Vec::new(), false).await?;
        let Some(element) = found.as_str().map(|id| Element(id.to_owned())) else { break };
        let bid = page.of(&element, "bid", Vec::new()).await?;
        mark = bid.as_str().unwrap_or_default().to_owned();
        match page.frame_of(&element).await? {
            Some(inner) if inner != frame => frame = inner,
            _ => break,
        }
    }
    Ok(mark)
}

/// The screenshot with the marks of elements that can be clicked.
async fn boxes(page: &Page, screenshot: &str, properties: &Map<String, Value>) -> Option<String> {
    let mut marks = Vec::new();
    for (bid, of) in properties.iter().filter(|(_, of)| of["set_of_marks"] == true) {
        let numbers: Vec<f64> =
            of["bbox"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        if let [x, y, width, height] = *numbers
            && width * height >= 20.0
        {
            marks.push(json!([bid, x, y, width, height]));
        }
    }
    if marks.is_empty() {
        return None;
    }
    let world = page.world(&page.target).await.ok()?;
    match page.run(world, "boxes", vec![screenshot.into(), marks.into()], true).await {
        Ok(Value::String(png)) => Some(png),
        other => {
            tracing::debug!(?other, "marks are not drawn");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_out_of_nodes() {
        let mut node = json!({
            "properties": [
                { "name": "roledescription", "value": { "value": "browsergym_id_a5 " } },
                { "name": "url", "value": { "value": "u" } },
            ],
            "description": { "value": "browsergym_id_a5 its own" },
        });
        bid(&mut node);
        assert_eq!(
            node,
            json!({
                "properties": [{ "name": "url", "value": { "value": "u" } }],
                "description": { "value": "its own" },
                "browsergym_id": "a5",
            })
        );
        let mut other = json!({ "description": { "value": "nothing of ours" } });
        bid(&mut other);
        assert!(other.get("browsergym_id").is_none());
    }
}
