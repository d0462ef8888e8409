//! From calls to what is done, with Python's words for calls that do not fit.

use super::{
    super::python::Py,
    code::{self, Call},
};

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Message,
    Noop(f64),
    Scroll(f64, f64),
    Fill(Py, String),
    Select(Py, Vec<String>),
    Click {
        bid: Py,
        button: Button,
        modifiers: u8,
        count: u8,
    },
    Hover(Py),
    Press(Py, String),
    Focus(Py),
    Clear(Py),
    Drag(Py, Py),
    Upload(Py, Vec<String>),
    Back,
    Forward,
    Goto(String),
    CloseTab,
    FocusTab(i64),
    NewTab,
    /// It is raised when its turn comes.
    Raise(String),
}

/// A button of the mouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Button {
    Left,
    Middle,
    Right,
}

impl Button {
    /// Its name in the protocol.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Middle => "middle",
            Self::Right => "right",
        }
    }
}

/// Functions, their parameters, and how many of these are needed: the original's sets for chat, elements, navigation
/// and tabs.
static FUNCTIONS: &[(&str, &[&str], usize)] = &[
    ("noop", &["wait_ms"], 0),
    ("send_msg_to_user", &["text"], 1),
    ("report_infeasible", &["reason"], 1),
    ("scroll", &["delta_x", "delta_y"], 2),
    ("fill", &["bid", "value"], 2),
    ("select_option", &["bid", "options"], 2),
    ("click", &["bid", "button", "modifiers"], 1),
    ("dblclick", &["bid", "button", "modifiers"], 1),
    ("hover", &["bid"], 1),
    ("press", &["bid", "key_comb"], 2),
    ("focus", &["bid"], 1),
    ("clear", &["bid"], 1),
    ("drag_and_drop", &["from_bid", "to_bid"], 2),
    ("upload_file", &["bid", "file"], 2),
    ("go_back", &[], 0),
    ("go_forward", &[], 0),
    ("goto", &["url"], 1),
    ("tab_close", &[], 0),
    ("tab_focus", &["index"], 1),
    ("new_tab", &[], 0),
];

/// All steps of a text; an error when it is wrong as a whole, before anything of it is done.
pub(super) fn steps(text: &str) -> Result<Vec<Step>, String> {
    let calls = code::calls(text);
    if calls.is_empty() {
        return Err("ValueError: Received an empty action.".to_owned());
    }
    if let Some(call) = calls.iter().find(|c| !FUNCTIONS.iter().any(|(name, ..)| *name == c.name)) {
        return Err(format!("NameError: Invalid action type '{}'.", call.name));
    }
    Ok(calls.into_iter().map(|call| step(call).unwrap_or_else(Step::Raise)).collect())
}

/// Arguments in the order of the parameters.
fn bound(call: &mut Call) -> Result<Vec<Option<Py>>, String> {
    let name = &call.name;
    let Some((_, parameters, needed)) = FUNCTIONS.iter().find(|(known, ..)| known == name) else {
        return Err(format!("NameError: name '{name}' is not defined"));
    };
    let given = call.args.len();
    let mut args: Vec<Option<Py>> = call.args.drain(..).map(Some).collect();
    for (key, value) in call.named.drain(..) {
        let Some(at) = parameters.iter().position(|p| *p == key) else {
            return Err(format!("TypeError: {name}() got an unexpected keyword argument '{key}'"));
        };
        if args.len() <= at {
            args.resize(at + 1, None);
        }
        match args.get_mut(at) {
            Some(slot @ None) => *slot = Some(value),
            _ => return Err(format!("TypeError: {name}() got multiple values for argument '{key}'")),
        }
    }
    if given > parameters.len() {
        let (max, were) = (parameters.len(), if given == 1 { "was" } else { "were" });
        let takes = if *needed == max { max.to_string() } else { format!("from {needed} to {max}") };
        let plural = if max == 1 && *needed == max { "" } else { "s" };
        return Err(format!(
            "TypeError: {name}() takes {takes} positional argument{plural} but {given} {were} given"
        ));
    }
    args.resize(parameters.len(), None);
    let missing: Vec<String> = parameters
        .iter()
        .zip(&args)
        .take(*needed)
        .filter(|(_, arg)| arg.is_none())
        .map(|(p, _)| format!("'{p}'"))
        .collect();
    if let Some((last, first)) = missing.split_last() {
        let list = if first.is_empty() { last.clone() } else { format!("{} and {last}", first.join(", ")) };
        let plural = if first.is_empty() { "" } else { "s" };
        let count = missing.len();
        return Err(format!(
            "TypeError: {name}() missing {count} required positional argument{plural}: {list}"
        ));
    }
    Ok(args)
}

fn step(mut call: Call) -> Result<Step, String> {
    let mut args = bound(&mut call)?.into_iter();
    let mut next = || args.next().flatten();
    let mut needed = || next().unwrap_or(Py::None);
    Ok(match call.name.as_str() {
        "noop" => Step::Noop(next().map_or(Ok(1000.0), |v| number("wait_ms", &v))?),
        "send_msg_to_user" | "report_infeasible" => match needed() {
            Py::Str(_) => Step::Message,
            other => return Err(format!("ValueError: Forbidden value: {other} is not a string")),
        },
        "scroll" => Step::Scroll(number("delta_x", &needed())?, number("delta_y", &needed())?),
        "fill" => Step::Fill(needed(), text("value", needed())?),
        "select_option" => Step::Select(needed(), texts("value", needed())?),
        name @ ("click" | "dblclick") => Step::Click {
            bid: needed(),
            button: next().map_or(Ok(Button::Left), |b| button(&b))?,
            modifiers: next().map_or(Ok(0), modifiers)?,
            count: if name == "click" { 1 } else { 2 },
        },
        "hover" => Step::Hover(needed()),
        "press" => Step::Press(needed(), text("key", needed())?),
        "focus" => Step::Focus(needed()),
        "clear" => Step::Clear(needed()),
        "drag_and_drop" => Step::Drag(needed(), needed()),
        "upload_file" => Step::Upload(needed(), texts("file", needed())?),
        "go_back" => Step::Back,
        "go_forward" => Step::Forward,
        "goto" => Step::Goto(text("url", needed())?),
        "tab_close" => Step::CloseTab,
        "tab_focus" => match needed() {
            Py::Int(n) => Step::FocusTab(i64::try_from(n).unwrap_or(i64::MAX)),
            other => {
                return Err(format!(
                    "TypeError: list indices must be integers or slices, not {}",
                    other.kind()
                ));
            }
        },
        _ => Step::NewTab,
    })
}

fn number(name: &str, value: &Py) -> Result<f64, String> {
    match value {
        Py::Int(n) => Ok(*n as f64),
        Py::Float(x) if x.is_finite() => Ok(*x),
        other => Err(format!("Error: {name}: expected float, got {}", other.kind())),
    }
}

fn text(name: &str, value: Py) -> Result<String, String> {
    match value {
        Py::Str(s) => Ok(s),
        other => Err(format!("Error: {name}: expected string, got {}", other.kind())),
    }
}

fn texts(name: &str, value: Py) -> Result<Vec<String>, String> {
    match value {
        Py::List(items) => items.into_iter().map(|i| text(name, i)).collect(),
        other => Ok(vec![text(name, other)?]),
    }
}

fn button(value: &Py) -> Result<Button, String> {
    match value.str() {
        Some("left") => Ok(Button::Left),
        Some("middle") => Ok(Button::Middle),
        Some("right") => Ok(Button::Right),
        _ => Err("Error: button: expected one of (left|right|middle)".to_owned()),
    }
}

fn modifiers(value: Py) -> Result<u8, String> {
    let mut all = 0;
    for name in texts("modifiers", value)? {
        all |= match name.as_str() {
            "Alt" => 1,
            "Control" | "ControlOrMeta" => 2,
            "Meta" => 4,
            "Shift" => 8,
            _ => {
                return Err(
                    "Error: modifiers: expected one of (Alt|Control|ControlOrMeta|Meta|Shift)".to_owned()
                );
            }
        };
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_calls_are_told_in_pythons_words() {
        assert_eq!(steps("").unwrap_err(), "ValueError: Received an empty action.");
        // Nothing is done when one of them is unknown.
        assert_eq!(steps("noop() explode('x')").unwrap_err(), "NameError: Invalid action type 'explode'.");
        for (text, says) in [
            ("click()", "TypeError: click() missing 1 required positional argument: 'bid'"),
            ("fill()", "TypeError: fill() missing 2 required positional arguments: 'bid' and 'value'"),
            ("goto('a', 'b')", "TypeError: goto() takes 1 positional argument but 2 were given"),
            ("go_back(1)", "TypeError: go_back() takes 0 positional arguments but 1 was given"),
            ("noop(1, 2)", "TypeError: noop() takes from 0 to 1 positional arguments but 2 were given"),
            ("goto('a', url='b')", "TypeError: goto() got multiple values for argument 'url'"),
            ("click('a', x=1)", "TypeError: click() got an unexpected keyword argument 'x'"),
            ("send_msg_to_user(5)", "ValueError: Forbidden value: 5 is not a string"),
        ] {
            assert_eq!(steps(text).unwrap(), [Step::Raise(says.to_owned())], "{text}");
        }
        assert_eq!(
            steps("click('a1', button='right', modifiers=['Shift', 'Alt'])").unwrap(),
            [Step::Click { bid: Py::Str("a1".into()), button: Button::Right, modifiers: 9, count: 1 }]
        );
        assert_eq!(
            steps("noop() select_option('3', 'x')").unwrap(),
            [Step::Noop(1000.0), Step::Select(Py::Str("3".into()), vec!["x".into()])]
        );
    }
}
