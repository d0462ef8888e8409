//! What is written on a page, as Markdown; white space where the original, which lays its HTML out first, has it.

use serde_json::Value;

use super::snapshot::Snapshot;

/// Most of a page that is told, in bytes.
const MOST: usize = 1 << 20;
/// Documents within documents.
const NESTED: usize = 16;
/// Elements without an end.
const VOID: [&str; 16] = [
    "area", "base", "br", "col", "embed", "frame", "hr", "img", "input", "keygen", "link", "meta", "param",
    "source", "track", "wbr",
];

enum Visit {
    Enter(usize, usize),
    Leave(String),
}

/// The text of a page.
pub(super) fn page(dom: &Value) -> String {
    let snapshot = Snapshot::new(dom);
    let mut writer = Writer::new();
    let mut documents = Vec::new();
    for at in 0.. {
        let Some(document) = snapshot.document(at) else { break };
        documents.push((document, document.children()));
    }
    let mut depth = 0;
    let mut open = vec![Visit::Enter(0, 0)];
    while let Some(visit) = open.pop() {
        let (at, node) = match visit {
            Visit::Leave(tag) => {
                if tag == "iframe" {
                    depth -= 1;
                }
                writer.end(&tag);
                continue;
            }
            Visit::Enter(at, node) => (at, node),
        };
        if writer.out.len() > MOST {
            writer.out.push_str("\n[... the rest of the page is left out ...]");
            break;
        }
        let Some((document, children)) = documents.get(at) else { continue };
        let mut inner = Vec::new();
        match document.kind(node) {
            3 => writer.text(document.value(node)),
            1 => {
                let tag = document.name(node).trim().to_lowercase();
                if tag.starts_with("::") {
                    // No element, and so the original shows its tag.
                    writer.text(&format!("<{tag}>"));
                    writer.flush();
                } else if VOID.contains(&tag.as_str()) {
                    writer.start(&tag, |name| document.attribute(node, name));
                    writer.closed(&tag);
                    continue;
                } else {
                    writer.start(&tag, |name| document.attribute(node, name));
                    open.push(Visit::Leave(tag.clone()));
                    if tag == "iframe" {
                        depth += 1;
                    }
                }
                if let Some(content) = document.content(node).filter(|c| *c > at && depth <= NESTED) {
                    inner.push(Visit::Enter(content, 0));
                }
            }
            // Documents and fragments are what is in them; comments are nothing.
            9 | 11 => {}
            _ => continue,
        }
        let children = children.get(node).map(Vec::as_slice).unwrap_or_default();
        open.extend(children.iter().rev().map(|child| Visit::Enter(at, *child)));
        open.append(&mut inner);
    }
    writer.finish()
}

struct List {
    ordered: bool,
    number: i64,
}

struct Link {
    href: String,
    title: String,
}

/// Writes Markdown from elements and texts.
struct Writer {
    out: String,
    /// Text between two tags; white space, when there is none.
    pending: Option<String>,
    /// Line ends before the next text.
    breaks: usize,
    /// The end of a line that is to stay one.
    hard: bool,
    space: bool,
    start: bool,
    quiet: usize,
    pre: bool,
    pre_begins: bool,
    raw: usize,
    code: bool,
    quoted: bool,
    quotes: usize,
    emphasis: bool,
    after_emphasis: bool,
    /// The last text that was written.
    before: String,
    links: Vec<Option<Link>>,
    /// A link whose `[` is not written yet.
    opening: bool,
    lists: Vec<List>,
    last_was_list: bool,
    cell_follows: bool,
    table_begins: bool,
    cells: usize,
}

fn level(tag: &str) -> Option<usize> {
    match tag.as_bytes() {
        [b'h', n @ b'1'..=b'9'] => Some(usize::from(n - b'0')),
        _ => None,
    }
}

impl Writer {
    fn new() -> Self {
        Self {
            out: String::new(),
            pending: None,
            breaks: 0,
            hard: false,
            space: false,
            start: true,
            quiet: 0,
            pre: false,
            pre_begins: false,
            raw: 0,
            code: false,
            quoted: false,
            quotes: 0,
            emphasis: false,
            after_emphasis: false,
            before: String::new(),
            links: Vec::new(),
            opening: false,
            lists: Vec::new(),
            last_was_list: false,
            cell_follows: false,
            table_begins: false,
            cells: 0,
        }
    }

    /// A text of the page.
    fn text(&mut self, text: &str) {
        if self.raw > 0 {
            self.pending.get_or_insert_default().push_str(text);
            return;
        }
        let text = text.trim();
        if !text.is_empty() {
            let pending = self.pending.get_or_insert_with(|| " ".to_owned());
            pending.push_str(text);
            // Written as an entity, which the original reads as a text of its own.
            if !text.ends_with(['<', '>', '&']) {
                pending.push(' ');
            }
        }
    }

    /// What is between the last tag and this one.
    fn flush(&mut self) {
        let data = match self.pending.take() {
            Some(data) => data,
            None if self.raw > 0 => return,
            None => " ".to_owned(),
        };
        self.data(&data);
        if self.raw == 0 && !data.ends_with(' ') {
            self.data(" ");
        }
    }

    fn data(&mut self, data: &str) {
        let mut data = data.to_owned();
        if self.emphasis {
            data = data.trim().to_owned();
            self.emphasis = false;
            self.after_emphasis = true;
        } else if self.after_emphasis {
            let plain = |c: char| !c.is_whitespace() && !"][(){}.!?".contains(c);
            if data.starts_with(plain) && !self.pre && self.links.is_empty() {
                data.insert(0, ' ');
            }
            self.after_emphasis = false;
        }
        if self.opening {
            self.put("[", false);
            self.opening = false;
        }
        if !self.code && !self.pre {
            data = escaped(&data);
        }
        self.before.clone_from(&data);
        self.put(&data, true);
    }

    fn paragraph(&mut self) {
        self.breaks = 2;
    }

    fn line(&mut self) {
        self.breaks = self.breaks.max(1);
    }

    /// Writes; `flows` is text whose white space means nothing.
    fn put(&mut self, data: &str, flows: bool) {
        if self.quiet > 0 {
            return;
        }
        let mut data = data.to_owned();
        if flows && !self.pre {
            let spaced = data.starts_with(char::is_whitespace);
            let ends = data.ends_with(char::is_whitespace);
            let words = data.split_whitespace().collect::<Vec<_>>().join(" ");
            self.space |= spaced;
            let tail = if ends && !words.is_empty() { " " } else { "" };
            data = format!("{words}{tail}");
        }
        if data.is_empty() {
            return;
        }
        if self.pre_begins && !data.starts_with('\n') {
            data.insert(0, '\n');
        }
        let mut margin = ">".repeat(self.quotes);
        if self.quotes > 0 {
            margin.push(' ');
        }
        if self.pre {
            margin.push_str("    ");
            data = data.replace('\n', &format!("\n{margin}"));
        }
        if self.pre_begins {
            self.pre_begins = false;
        }
        if self.start {
            self.space = false;
            self.breaks = 0;
            self.start = false;
        }
        if self.breaks > 0 {
            for _ in 0..self.breaks {
                let hard = std::mem::take(&mut self.hard);
                self.out.push_str(if hard { "  \n" } else { "\n" });
                self.out.push_str(&margin);
            }
            self.space = false;
            self.hard = false;
        }
        if self.space {
            if !self.out.is_empty() && !self.out.ends_with('\n') {
                self.out.push(' ');
            }
            self.space = false;
        }
        self.breaks = 0;
        self.out.push_str(&data);
    }

    fn start<'a>(&mut self, tag: &str, attribute: impl Fn(&str) -> Option<&'a str>) {
        self.flush();
        if matches!(tag, "pre" | "textarea") {
            self.raw += 1;
        }
        if self.opening && !matches!(tag, "p" | "div" | "style" | "dl" | "dt" | "img") {
            self.put("[", false);
            self.opening = false;
        }
        if let Some(level) = level(tag) {
            let marks = format!("{} ", "#".repeat(level));
            if self.links.is_empty() {
                self.paragraph();
                self.put(&marks, false);
            } else if self.out.ends_with('[') {
                self.out.pop();
                self.space = false;
                self.put(&format!("{marks}["), false);
            }
        }
        self.block(tag, true);
        match tag {
            "br" if self.quotes > 0 => self.put("  \n> ", false),
            "br" => self.put("  \n", false),
            "hr" => {
                self.paragraph();
                self.put("* * *", false);
                self.paragraph();
            }
            "head" | "style" | "script" => self.quiet += 1,
            "body" => self.quiet = 0,
            "blockquote" => {
                self.paragraph();
                self.put("> ", false);
                self.start = true;
                self.quotes += 1;
            }
            "a" => {
                let href = attribute("href").filter(|href| !href.starts_with('#'));
                self.opening = href.is_some();
                let title = attribute("title").unwrap_or_default();
                self.links.push(href.map(|href| Link { href: href.to_owned(), title: title.to_owned() }));
            }
            "dl" => self.paragraph(),
            "dd" => self.put("    ", false),
            "ol" | "ul" => {
                let number = attribute("start").and_then(|s| s.trim().parse::<i64>().ok()).unwrap_or(1);
                self.lists.push(List { ordered: tag == "ol", number: number.saturating_sub(1) });
            }
            "li" => {
                self.line();
                self.item();
            }
            "table" => self.table_begins = true,
            "tr" => self.cells = 0,
            "td" | "th" => {
                if self.cell_follows {
                    self.put("| ", false);
                }
                self.cell_follows = true;
                self.cells += 1;
            }
            "pre" => {
                self.pre = true;
                self.pre_begins = true;
                self.paragraph();
            }
            _ => self.inline(tag, true),
        }
        self.last_was_list = matches!(tag, "ol" | "ul");
    }

    fn end(&mut self, tag: &str) {
        self.flush();
        self.closed(tag);
    }

    fn closed(&mut self, tag: &str) {
        if matches!(tag, "pre" | "textarea") {
            self.raw = self.raw.saturating_sub(1);
        }
        if level(tag).is_some() {
            if self.links.is_empty() {
                self.paragraph();
            } else {
                self.breaks = 0;
            }
            return;
        }
        self.block(tag, false);
        match tag {
            "head" | "style" | "script" => self.quiet = self.quiet.saturating_sub(1),
            "body" => self.quiet = 0,
            "blockquote" => {
                self.quotes = self.quotes.saturating_sub(1);
                self.paragraph();
            }
            "a" => self.link(),
            "dt" | "dd" | "li" => self.line(),
            "ol" | "ul" => {
                self.lists.pop();
                if self.lists.is_empty() {
                    self.put("\n", false);
                }
            }
            "tr" => {
                self.cell_follows = false;
                self.soft();
                if self.table_begins {
                    self.put(&vec!["---"; self.cells].join("|"), false);
                    self.soft();
                    self.table_begins = false;
                }
            }
            "pre" => {
                self.pre = false;
                self.paragraph();
            }
            _ => self.inline(tag, false),
        }
        self.last_was_list = matches!(tag, "ol" | "ul");
    }

    /// The end of a line that Markdown shows as one.
    fn soft(&mut self) {
        self.line();
        self.hard = true;
    }

    fn block(&mut self, tag: &str, _start: bool) {
        match tag {
            "p" | "div" if self.links.is_empty() && !self.cell_follows => self.paragraph(),
            "ol" | "ul" if self.lists.is_empty() && !self.last_was_list => self.paragraph(),
            _ => {}
        }
    }

    fn inline(&mut self, tag: &str, start: bool) {
        let last = self.before.chars().last();
        match tag {
            "em" | "i" | "u" => {
                let apart =
                    start && last.is_some_and(|c| !c.is_ascii_whitespace() && !c.is_ascii_punctuation());
                self.put(if apart { " _" } else { "_" }, false);
                self.emphasis |= start;
            }
            "strong" | "b" => {
                self.put(if start && last == Some('*') { " **" } else { "**" }, false);
                self.emphasis |= start;
            }
            "del" | "strike" | "s" => {
                self.put(if start && last == Some('~') { " ~~" } else { "~~" }, false);
                self.emphasis |= start;
            }
            "kbd" | "code" | "tt" if !self.pre => {
                self.put("`", false);
                self.code = !self.code;
            }
            "q" => {
                self.put("\"", false);
                self.quoted = !self.quoted;
            }
            _ => {}
        }
    }

    fn item(&mut self) {
        let mut indent = String::new();
        let mut ordered = false;
        for list in &self.lists {
            indent.push_str(if ordered { "   " } else { "  " });
            ordered = list.ordered;
        }
        if !indent.is_empty() {
            self.put(&indent, false);
        }
        let mark = match self.lists.last_mut() {
            Some(list) if list.ordered => {
                list.number = list.number.saturating_add(1);
                format!("{}. ", list.number)
            }
            _ => "* ".to_owned(),
        };
        self.put(&mark, false);
        self.start = true;
    }

    fn link(&mut self) {
        let Some(Some(link)) = self.links.pop() else { return };
        if std::mem::take(&mut self.opening) {
            self.put("[", false);
        }
        self.breaks = 0;
        let title = link.title.trim();
        let title = if title.is_empty() { String::new() } else { format!(" \"{}\"", address(&link.title)) };
        self.put(&format!("]({}{title})", address(&link.href)), false);
    }

    fn finish(mut self) -> String {
        self.flush();
        self.out.push('\n');
        self.out
    }
}

/// An address within a link.
fn address(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\[]()".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// What would otherwise mean something at the beginning of a line, and backslashes that would.
fn escaped(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let mut line = line.to_owned();
        if line.contains('\\') {
            let mut out = String::new();
            let mut chars = line.chars().peekable();
            while let Some(c) = chars.next() {
                if c == '\\' && chars.peek().is_some_and(|n| "\\`*_{}[]()#+-.!".contains(*n)) {
                    out.push('\\');
                }
                out.push(c);
            }
            line = out;
        }
        let body = line.trim_start();
        let at = line.len() - body.len();
        let digits = body.len() - body.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let spaced = |rest: Option<&str>| rest.is_some_and(|r| r.starts_with(char::is_whitespace));
        if digits > 0 && spaced(body.get(digits..).and_then(|rest| rest.strip_prefix('.'))) {
            line.insert(at + digits, '\\');
        } else if spaced(body.strip_prefix('-')) || spaced(body.strip_prefix('+')) {
            line.insert(at, '\\');
        }
        lines.push(line);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A snapshot of a bit of HTML: tags, attributes in double quotes, texts.
    fn snapshot(html: &str) -> Value {
        let (mut strings, mut nodes) = (Vec::<String>::new(), Vec::new());
        let mut string = |text: &str| {
            strings.push(text.to_owned());
            strings.len() - 1
        };
        let mut parents = vec![-1i64];
        let mut rest = html;
        let mut raw = false;
        while !rest.is_empty() {
            if let Some(tag) = rest.strip_prefix('<') {
                let (tag, after) = tag.split_once('>').unwrap();
                rest = after;
                if tag.starts_with('/') {
                    parents.pop();
                    raw = false;
                    continue;
                }
                let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
                let mut pairs = Vec::new();
                for pair in attributes.split_terminator("\" ") {
                    if let Some((key, value)) = pair.split_once("=\"") {
                        pairs.push(string(key));
                        pairs.push(string(value.trim_end_matches('"')));
                    }
                }
                nodes.push((*parents.last().unwrap(), 1, string(name), 0, pairs));
                raw |= name == "pre";
                if !VOID.contains(&name) {
                    parents.push(i64::try_from(nodes.len()).unwrap() - 1);
                }
            } else {
                let (text, after) = rest.split_at(rest.find('<').unwrap_or(rest.len()));
                rest = after;
                if raw || !text.is_empty() {
                    nodes.push((*parents.last().unwrap(), 3, string("#text"), string(text), Vec::new()));
                }
            }
        }
        type Node = (i64, i64, usize, usize, Vec<usize>);
        let all = |pick: &dyn Fn(&Node) -> Value| nodes.iter().map(pick).collect::<Vec<_>>();
        json!({
            "documents": [{ "nodes": {
                "parentIndex": all(&|n| n.0.into()), "nodeType": all(&|n| n.1.into()),
                "nodeName": all(&|n| n.2.into()), "nodeValue": all(&|n| n.3.into()),
                "attributes": all(&|n| json!(n.4)),
                "contentDocumentIndex": { "index": [], "value": [] },
            } }],
            "strings": strings,
        })
    }

    #[test]
    fn pages_as_the_original_converts_them() {
        // The right side was made by the original's pipeline: Beautiful Soup's layout, then html2text.
        for (body, text) in [
            (
                "<h1>Page One</h1><a href=\"p2.html\">to two</a><p>some text</p>",
                "#  Page One \n\n[ to two ](p2.html)\n\nsome text \n",
            ),
            (
                "<ul><li><::marker></::marker>one</li><li>two <b>bold</b> tail</li></ul><p>after</p>",
                "  * <::marker> one \n  * two **bold** tail \n\n\n\nafter \n",
            ),
            (
                "<ol><li>one</li><li>two<ul><li>in</li></ul></li></ol>x",
                "  1. one \n  2. two \n     * in \n\nx \n",
            ),
            (
                "<table><thead><tr><th>A</th><th>B</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr><tr><td>3</td>\
                 <td>4</td></tr></tbody></table>",
                "A  |  B   \n---|---  \n1  |  2   \n3  |  4 \n",
            ),
            (
                "<pre>a\n  b</pre><code>c d</code> text <em>i</em><blockquote>q<p>w</p></blockquote><hr><br>z",
                "\n    a\n      b\n\n` c d ` text _i_\n\n> q \n> \n> w \n\n* * *\n\n  \nz \n",
            ),
            (
                "<a href=\"http://x/\">http://x/</a> <a>no</a> <a href=\"#\"></a> <a href=\"u_(1)\" title=\"T\">a\
                 <b>b</b></a>",
                "[ http://x/ ](http://x/) no  [ a **b** ](u_\\(1\\) \"T\")\n",
            ),
            (
                "<div>d1</div><div>d2<span>s1</span><span>s2</span></div>- dash\n+ plus\n1. one <button>Go</button>\
                 <input value=\"x\"><select><option>o1</option><option>o2</option></select>",
                "d1 \n\nd2  s1  s2 \n\n\\- dash \\+ plus 1\\. one  Go  o1  o2 \n",
            ),
            (
                "<dl><dt>t</dt><dd>d</dd></dl><h2><a href=\"/x\">link</a></h2><a href=\"y\"><h3>hh</h3></a><p></p>\
                 <img src=\"a\" alt=\"alt\"><label>L</label><q>qq</q><del>x</del>a<i>b</i>c",
                "t \n     d \n\n##  [ link ](/x)\n\n### [ hh  ](y)\n\nL  \" qq \" ~~x~~ a _b_ c \n",
            ),
            ("", "\n"),
            ("<script>var x = 1</script><style>p {}</style><div>shown</div>", "shown \n"),
        ] {
            let html = format!("<html><head><title>not shown</title></head><body>{body}</body></html>");
            assert_eq!(page(&snapshot(&html)), text, "{body}");
        }
    }
}
