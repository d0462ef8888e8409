//! The accessibility tree as text.

#![expect(
    clippy::indexing_slicing,
    reason = "only read: what a JSON value does not have is null, and no panic"
)]

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::super::python::Py;

/// Roles that are not told.
const NOT_ROLES: [&str; 1] = ["LineBreak"];
/// Properties that are not told.
const NOT_TOLD: [&str; 7] =
    ["editable", "readonly", "level", "settable", "multiline", "invalid", "focusable"];
/// Properties whose name tells everything.
const FLAGS: [&str; 3] = ["required", "focused", "atomic"];
/// Most of a tree that is told, in bytes; nobody reads more.
const MOST: usize = 2 << 20;

/// The tree, a line for each node, with tabulators for its depth.
pub(super) fn text(tree: &Value, properties: &Map<String, Value>) -> String {
    let nodes = tree["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let id = |node: &Value| node["nodeId"].as_str().unwrap_or_default().to_owned();
    let places: HashMap<String, usize> = nodes.iter().enumerate().map(|(at, node)| (id(node), at)).collect();
    let mut text = String::new();
    // A tree has no node twice, whatever the page made of it.
    let mut seen = HashSet::new();
    let mut open = vec![(0, 0, "")];
    while let Some((at, depth, parent)) = open.pop() {
        let Some(node) = nodes.get(at).filter(|_| seen.insert(at)) else { continue };
        let (line, name) = line(node, parent, properties);
        if let Some(line) = &line {
            if text.len() > MOST {
                text.push_str("\n[... the rest of the tree is left out ...]");
                break;
            }
            if !text.is_empty() {
                text.push('\n');
            }
            text.extend(std::iter::repeat_n('\t', depth));
            text.push_str(line);
        }
        let depth = if line.is_some() { depth + 1 } else { depth };
        let children = node["childIds"].as_array().into_iter().flatten().rev();
        open.extend(children.filter_map(|c| Some((*places.get(c.as_str()?)?, depth, name))));
    }
    text
}

/// What is told of a node, if anything, and its name.
fn line<'a>(node: &'a Value, parent: &str, extra: &Map<String, Value>) -> (Option<String>, &'a str) {
    let role = node["role"]["value"].as_str().unwrap_or_default();
    if NOT_ROLES.contains(&role) || node.get("name").is_none() {
        return (None, "");
    }
    let name = node["name"]["value"].as_str().unwrap_or_default();
    // Python's `in`: an empty text is in every text.
    if role == "StaticText" && parent.contains(name) {
        return (None, name);
    }
    let mut attributes = Vec::new();
    for property in node["properties"].as_array().into_iter().flatten() {
        let key = property["name"].as_str().unwrap_or_default();
        let Some(value) = property["value"].get("value").filter(|_| !NOT_TOLD.contains(&key)) else {
            continue;
        };
        if FLAGS.contains(&key) {
            if python(value).truthy() {
                attributes.push(key.to_owned());
            }
        } else {
            attributes.push(format!("{key}={}", python(value)));
        }
    }
    let bid = node.get("browsergym_id").and_then(Value::as_str);
    if role != "StaticText" && bid.and_then(|bid| extra.get(bid)).is_some_and(|of| of["clickable"] == true) {
        attributes.insert(0, "clickable".to_owned());
    }
    let mut line = String::new();
    if let Some(bid) = bid {
        line.push_str(&format!("[{bid}] "));
    }
    line.push_str(role);
    if role != "generic" || !name.is_empty() {
        line.push_str(&format!(" {}", Py::Str(name.trim().to_owned())));
    }
    if let Some(value) = node.get("value").and_then(|v| v.get("value")).filter(|v| !v.is_null()) {
        line.push_str(&format!(" value={}", python(value)));
    }
    for attribute in attributes {
        line.push_str(", ");
        line.push_str(&attribute);
    }
    (Some(line), name)
}

fn python(value: &Value) -> Py {
    serde_json::from_value(value.clone()).unwrap_or(Py::None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_as_the_original_writes_it() {
        let node = |id: &str, role: &str, name: Value, children: &[&str]| json!({ "nodeId": id, "role": { "value": role }, "name": { "value": name }, "childIds": children });
        let mut root = node("1", "RootWebArea", json!("P"), &["2", "9"]);
        root["properties"] = json!([
            { "name": "focusable", "value": { "value": true } },
            { "name": "focused", "value": { "value": true } },
            { "name": "url", "value": { "value": "http://x/?a='b'" } },
        ]);
        let mut ignored = node("2", "none", json!(""), &["3"]);
        ignored.as_object_mut().unwrap().remove("name");
        let mut body = node("3", "generic", json!(""), &["4", "6", "8", "1"]);
        body["browsergym_id"] = json!("3");
        let mut input = node("6", "textbox", json!(" Name "), &["7"]);
        input["browsergym_id"] = json!("5");
        input["value"] = json!({ "value": "it's" });
        input["properties"] = json!([
            { "name": "required", "value": { "value": false } },
            { "name": "checked", "value": { "value": "true" } },
            { "name": "level", "value": { "value": 2 } },
        ]);
        let tree = json!({ "nodes": [
            root, ignored, body,
            node("4", "heading", json!("Hi there"), &["5"]),
            node("5", "StaticText", json!("Hi"), &["10"]),
            input,
            node("7", "generic", json!(""), &[]),
            node("8", "LineBreak", json!("\n"), &[]),
            node("10", "InlineTextBox", json!("Hi"), &[]),
        ] });
        let extra = json!({ "5": { "clickable": true }, "3": { "clickable": false } });
        let expected = "RootWebArea 'P', focused, url=\"http://x/?a='b'\"\n\t[3] generic\n\t\theading 'Hi there'\n\
                        \t\t\tInlineTextBox 'Hi'\n\t\t[5] textbox 'Name' value=\"it's\", clickable, checked='true'\n\
                        \t\t\tgeneric";
        assert_eq!(text(&tree, extra.as_object().unwrap()), expected);
        assert_eq!(text(&json!({}), &Map::new()), "");
    }
}
