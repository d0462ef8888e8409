//! A snapshot of all documents of a page: where elements are, and what is in them.

#![expect(
    clippy::indexing_slicing,
    reason = "only read: what a JSON value does not have is null, and no panic"
)]

use serde_json::{Map, Value, json};

/// Marks in the page.
const BID: &str = "bid";
const SEEN: &str = "browsergym_visibility_ratio";
const MARK: &str = "browsergym_set_of_marks";

/// A snapshot, to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot<'a> {
    dom: &'a Value,
}

/// One document of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document<'a> {
    snapshot: Snapshot<'a>,
    nodes: &'a Value,
    document: &'a Value,
}

fn index(value: &Value) -> Option<usize> {
    usize::try_from(value.as_i64()?).ok()
}

fn indices(value: &Value) -> impl Iterator<Item = Option<usize>> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(index)
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(dom: &'a Value) -> Self {
        Self { dom }
    }

    fn string(self, value: &Value) -> Option<&'a str> {
        self.dom["strings"].get(index(value)?)?.as_str()
    }

    pub(super) fn document(self, at: usize) -> Option<Document<'a>> {
        let document = self.dom["documents"].get(at)?;
        Some(Document { snapshot: self, nodes: &document["nodes"], document })
    }
}

impl<'a> Document<'a> {
    pub(super) fn len(self) -> usize {
        self.nodes["nodeType"].as_array().map_or(0, Vec::len)
    }

    /// Children of each node, in order.
    pub(super) fn children(self) -> Vec<Vec<usize>> {
        let mut children = vec![Vec::new(); self.len()];
        for (node, parent) in indices(&self.nodes["parentIndex"]).enumerate() {
            if let Some(of) = parent.and_then(|parent| children.get_mut(parent)) {
                of.push(node);
            }
        }
        children
    }

    pub(super) fn kind(self, node: usize) -> i64 {
        self.nodes["nodeType"][node].as_i64().unwrap_or_default()
    }

    pub(super) fn name(self, node: usize) -> &'a str {
        self.snapshot.string(&self.nodes["nodeName"][node]).unwrap_or_default()
    }

    pub(super) fn value(self, node: usize) -> &'a str {
        self.snapshot.string(&self.nodes["nodeValue"][node]).unwrap_or_default()
    }

    pub(super) fn attributes(self, node: usize) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.nodes["attributes"][node].as_array().map(Vec::as_slice).unwrap_or_default();
        all.chunks_exact(2).filter_map(move |pair| match pair {
            [name, value] => {
                Some((self.snapshot.string(name)?, self.snapshot.string(value).unwrap_or_default()))
            }
            _ => None,
        })
    }

    pub(super) fn attribute(self, node: usize, name: &str) -> Option<&'a str> {
        self.attributes(node).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Which document is in a node.
    pub(super) fn content(self, node: usize) -> Option<usize> {
        self.contents().find(|(at, _)| *at == node).map(|(_, document)| document)
    }

    fn contents(self) -> impl Iterator<Item = (usize, usize)> {
        let of = &self.nodes["contentDocumentIndex"];
        indices(&of["index"])
            .zip(indices(&of["value"]))
            .filter_map(|(node, document)| Some((node?, document?)))
    }

    /// Its boxes: node, position in the document, whether it is there at all.
    fn boxes(self) -> impl Iterator<Item = (usize, &'a Value, bool)> {
        let layout = &self.document["layout"];
        let boxes = layout["bounds"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rects = layout["clientRects"].as_array().map(Vec::as_slice).unwrap_or_default();
        indices(&layout["nodeIndex"]).zip(boxes).zip(rects).filter_map(|((node, bounds), rect)| {
            Some((node?, bounds, rect.as_array().is_some_and(|r| !r.is_empty())))
        })
    }

    fn scrolled(self) -> (f64, f64) {
        let by = |key: &str| self.document[key].as_f64().unwrap_or_default();
        (by("scrollOffsetX"), by("scrollOffsetY"))
    }
}

/// What is known of each marked element: how much of it is in the viewport, where, and whether it can be clicked.
pub(super) fn properties(dom: &Value) -> Map<String, Value> {
    let snapshot = Snapshot::new(dom);
    let mut all = Map::new();
    let count = dom["documents"].as_array().map_or(0, Vec::len);
    let mut seen = vec![false; count];
    let mut open = vec![(0, (0.0, 0.0))];
    while let Some((at, place)) = open.pop() {
        let Some(document) = snapshot.document(at) else { continue };
        match seen.get_mut(at) {
            Some(seen @ false) => *seen = true,
            _ => continue,
        }
        let (x, y) = document.scrolled();
        let (left, top) = (place.0 - x, place.1 - y);
        let mut boxes: Vec<Option<[f64; 4]>> = vec![None; document.len()];
        let mut corners = vec![(0.0, 0.0); document.len()];
        for (node, bounds, there) in document.boxes() {
            let number = |i: usize| bounds[i].as_f64().unwrap_or_default();
            let corner = (left + number(0), top + number(1));
            if let Some(slot) = corners.get_mut(node) {
                *slot = corner;
            }
            if let Some(slot) = boxes.get_mut(node) {
                *slot = there.then(|| [corner.0, corner.1, number(2), number(3)]);
            }
        }
        let mut clickable = vec![false; document.len()];
        for node in indices(&document.nodes["isClickable"]["index"]).flatten() {
            if let Some(slot) = clickable.get_mut(node) {
                *slot = true;
            }
        }
        for node in 0..document.len() {
            let (mut bid, mut seen, mut mark) = (None, Value::Null, Value::Null);
            for (name, value) in document.attributes(node) {
                match name {
                    BID => bid = Some(value),
                    SEEN => seen = value.parse::<f64>().map_or(Value::Null, Value::from),
                    MARK => mark = (value == "1").into(),
                    _ => {}
                }
            }
            if let Some(bid) = bid.filter(|bid| !bid.is_empty()) {
                let bbox = boxes.get(node).copied().flatten().map(|b| b.map(number));
                let clickable = clickable.get(node).copied().unwrap_or_default();
                let of =
                    json!({ "visibility": seen, "bbox": bbox, "clickable": clickable, "set_of_marks": mark });
                all.insert(bid.to_owned(), of);
            }
        }
        open.extend(
            document.contents().map(|(node, inner)| (inner, corners.get(node).copied().unwrap_or_default())),
        );
    }
    all
}

/// Whole numbers as such, as the browser writes them.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { (x as i64).into() } else { x.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_in_the_page_also_within_frames() {
        let strings = ["HTML", "IFRAME", "P", BID, "0", "a", "a0", SEEN, "1", "0.25", MARK];
        let document = |names: Value, attributes: Value, bounds: Value, scroll: f64| {
            let count = names.as_array().unwrap().len();
            json!({
                "scrollOffsetX": 0, "scrollOffsetY": scroll,
                "nodes": {
                    "parentIndex": (0..count).map(|i| i as i64 - 1).collect::<Vec<_>>(),
                    "nodeType": vec![1; count], "nodeName": names, "attributes": attributes,
                    "isClickable": { "index": [count - 1] },
                    "contentDocumentIndex": { "index": [], "value": [] },
                },
                "layout": {
                    "nodeIndex": (0..count).collect::<Vec<_>>(), "bounds": bounds,
                    "clientRects": vec![vec![1]; count],
                },
            })
        };
        let mut outer = document(
            json!([0, 1]),
            json!([[3, 4, 7, 8], [3, 5, 10, 8]]),
            json!([[0, 0, 100, 50], [10, 20, 30, 40]]),
            5.0,
        );
        outer["nodes"]["contentDocumentIndex"] = json!({ "index": [1], "value": [1] });
        let inner = document(json!([2]), json!([[3, 6, 7, 9]]), json!([[1.5, 2, 3, 4]]), 0.0);
        let dom = json!({ "strings": strings, "documents": [outer, inner] });
        let all = properties(&dom);
        assert_eq!(
            all["0"],
            json!({ "visibility": 1.0, "bbox": [0, -5, 100, 50], "clickable": false, "set_of_marks": null })
        );
        assert_eq!(all["a"]["bbox"], json!([10, 15, 30, 40]));
        assert_eq!((&all["a"]["set_of_marks"], &all["a"]["clickable"]), (&json!(true), &json!(true)));
        assert_eq!((&all["a0"]["bbox"], &all["a0"]["visibility"]), (&json!([11.5, 17, 3, 4]), &json!(0.25)));
        assert!(properties(&json!({})).is_empty());
    }
}
