//! Browser actions with a real Chromium, against pages of our own. Without a Chromium these tests say that they are
//! skipped.

use axum::{
    Router,
    http::header,
    response::{Html, IntoResponse as _, Redirect},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleetcore_testkit::{eventually, until};
use serde_json::{Value, json};

use crate::{
    compare::masked,
    differences,
    replay::{Running, recorded},
};

const ROOT: [&str; 4] = ["--username", "root", "--user-id", "0"];

fn chromium() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    let found = std::env::var_os("FLEETCORE_CHROMIUM").is_some()
        || std::env::split_paths(&path).any(|dir| names.iter().any(|name| dir.join(name).is_file()));
    if !found {
        eprintln!("SKIPPED: there is no Chromium in PATH, and FLEETCORE_CHROMIUM is not set");
    }
    found
}

async fn runtime() -> Option<Running> {
    if !chromium() {
        return None;
    }
    let mut env = Vec::new();
    let program = std::env::var("FLEETCORE_CHROMIUM").ok();
    if let Some(program) = &program {
        env.push(("FLEETCORE_CHROMIUM", program.as_str()));
    }
    Some(Running::start(&ROOT, &env).await)
}

/// Pages, and their address.
async fn pages() -> String {
    let page = |body: &'static str| {
        get(move || async move { Html(format!("<!DOCTYPE html><title>T</title>{body}")) })
    };
    let inner = "<button id=b onclick=\"this.textContent='pressed'\">Inner</button>";
    let download = || async {
        let headers = [
            (header::CONTENT_TYPE, "application/pdf"),
            (header::CONTENT_DISPOSITION, "attachment; filename=a.pdf"),
        ];
        (headers, "%PDF-1.7 a file").into_response()
    };
    let app = Router::new()
        .route("/form", page(
            "<form><label>Name <input id=n value=old></label><select id=s multiple><option value=r>Red\
             <option value=g>Green</select><input type=checkbox id=c><input type=file id=f>\
             <button type=button disabled>Off</button>\
             <button type=button onclick=\"out.textContent=n.value+'/'+[...s.selectedOptions].map(o=>o.value)+'/'\
             +c.checked+'/'+(f.files[0]?.name??'')\">Go</button></form><p id=out></p>\
             <p id=keys></p><script>n.onkeydown=e=>keys.textContent+=' '+e.key+(e.ctrlKey?'^':'')</script>",
        ))
        .route("/frames", page("<h1>Outer</h1><iframe src=/inner></iframe>"))
        .route("/inner", page(inner))
        .route("/tabs", page("<a href=/inner target=_blank>new</a><script>onclick=()=>0</script>"))
        .route("/alert", page("<button onclick=\"alert(1);this.textContent='after'\">Alert</button>"))
        .route("/hang", page("<button onclick=\"for(;;);\">Hang</button>"))
        .route("/long", page(
            "<div style='height:5000px'>top</div><a href=/inner>bottom</a><script>onscroll=()=>document.title='S'</script>",
        ))
        .route("/big", get(|| async {
            Html(format!("<p>start</p>{}<p>end</p>", format!("<p>{}</p>", "0123456789 and so on and on ".repeat(40)).repeat(2_000)))
        }))
        .route("/redirect", get(|| async { Redirect::to("/inner") }))
        .route("/never", get(std::future::pending::<()>))
        .route("/later", page("<script>setTimeout(()=>document.body.innerHTML='<p>now</p>',50)</script>"))
        .route("/drag", page(
            "<div id=a draggable=true style='width:50px;height:50px'>A</div><div id=b ondragover='event.preventDefault()' \
             ondrop=\"this.textContent='dropped'\" style='width:80px;height:80px'>B</div>",
        ))
        .route("/file.pdf", get(download))
        .route("/links", page("<a href=/file.pdf>get it</a>"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

async fn code(running: &Running, code: &str) -> Value {
    let (status, body) =
        running.act(json!({ "action": "browse_interactive", "args": { "browser_actions": code } })).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn good(running: &Running, text: &str) -> String {
    let body = code(running, text).await;
    assert_eq!(body["extras"]["last_browser_action_error"], "", "{text}");
    body["content"].as_str().unwrap().to_owned()
}

async fn wrong(running: &Running, text: &str) -> String {
    let body = code(running, text).await;
    assert_eq!(body["extras"]["error"], true, "{body}");
    body["extras"]["last_browser_action_error"].as_str().unwrap().to_owned()
}

/// The mark of the element on the line that has `text`.
fn bid(content: &str, text: &str) -> String {
    let line = content.lines().find(|line| line.contains(text) && line.trim().starts_with('['));
    let line = line.unwrap_or_else(|| panic!("no {text} in {content}")).trim();
    line[1..line.find(']').unwrap()].to_owned()
}

/// A recorded answer without pictures, times, and what changes with the version of Chromium.
fn plain(name: &str, body: Value) -> Value {
    let mut body = masked("browse", body);
    for key in ["screenshot", "set_of_marks"] {
        if let Some(Value::String(picture)) = body.pointer_mut(&format!("/extras/{key}")) {
            assert!(picture.starts_with("data:image/png;base64,"), "{picture:.40}");
            *picture = "*".to_owned();
        }
    }
    if let Some(Value::String(path)) = body.pointer_mut("/extras/screenshot_path") {
        let digits = path.replace(|c: char| c.is_ascii_digit(), "9");
        assert_eq!(digits, "/workspace/.browser_screenshots/screenshot_99999999_999999_999999.png");
        *path = "*".to_owned();
    }
    if let Some(Value::String(content)) = body.get_mut("content") {
        let start = "[Screenshot saved to: ";
        let lines: Vec<_> =
            content.split('\n').map(|l| if l.starts_with(start) { start } else { l }).collect();
        *content = lines.join("\n");
    }
    // The browser's own page about errors is worded otherwise from one version to the next.
    if name == "browse-connection-refused" {
        let content = body["content"].as_str().unwrap();
        let end = content.find("============== BEGIN webpage content").unwrap();
        body["content"] = content[..end].into();
        body["extras"]["focused_element_bid"] = json!("*");
    }
    if let Some(tree) = body.pointer_mut("/extras/axtree_object").filter(|t| t.get("nodes").is_some()) {
        *tree = json!("some");
    }
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsing_is_answered_as_recorded() {
    let Some((cases, _)) = recorded("browse") else { return };
    let Some(running) = runtime().await else { return };
    // The recorded server of pages, on a port of ours.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut differ = Vec::new();
    for case in cases.iter().filter(|c| c.get("name").is_some()) {
        let name = case["name"].as_str().unwrap();
        let request = serde_json::from_str(&case["request"].to_string().replace("18765", &port)).unwrap();
        let response = running.send(&request).await;
        let status = response.status().as_u16();
        let text =
            response.text().await.unwrap().replace(&running.work, "/workspace").replace(&port, "18765");
        if name == "setup-http" {
            let up = async || tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.ok();
            eventually("the server of pages is up", up).await;
        }
        let actual = plain(name, serde_json::from_str(&text).unwrap());
        let expected = plain(name, case["response"]["json"].clone());
        let same = status == case["status"] && actual == expected;
        if !same && !differences::deliberate("browse", name, case.get("records_defect").is_some()) {
            differ.push(format!("{name}: {status}\n   {expected}\n   {actual}"));
        }
    }
    running.stop().await;
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_as_data_is_that_of_the_recording() {
    let Some((cases, _)) = recorded("browse") else { return };
    let Some(running) = runtime().await else { return };
    let case = cases.iter().find(|c| c["name"] == "browse-return-axtree").unwrap();
    let page = cases.iter().find(|c| c["name"] == "setup-p1").unwrap();
    let html = STANDARD.decode(page["request"]["multipart"][0]["content_base64"].as_str().unwrap()).unwrap();
    let html = String::from_utf8(html).unwrap();
    let app = Router::new().route("/p1.html", get(|| async { Html(html) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/p1.html", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let args = json!({ "url": url, "return_axtree": true });
    let (_, body) = running.act(json!({ "action": "browse", "args": args })).await;
    let (ours, theirs) = (&body["extras"], &case["response"]["json"]["extras"]);
    assert_eq!(ours["extra_element_properties"], theirs["extra_element_properties"]);
    let nodes = ours["axtree_object"]["nodes"].as_array().unwrap();
    assert_eq!(format!("{} nodes in total", nodes.len()), theirs["axtree_object"]["elided"]);
    let marks = |nodes: &[Value]| -> Vec<String> {
        let told = nodes.iter().filter_map(|n| n["browsergym_id"].as_str());
        told.map(str::to_owned).collect()
    };
    assert!(marks(nodes).contains(&"3".to_owned()), "{nodes:?}");
    assert!(!ours["axtree_object"].to_string().contains("browsergym_id_"));
    assert_ne!(ours["screenshot"], ours["set_of_marks"], "the link is not marked");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_is_filled_in() {
    let Some(running) = runtime().await else { return };
    let url = pages().await;
    std::fs::write(format!("{}/up.txt", running.work), "x").unwrap();
    let page = good(&running, &format!("goto('{url}/form')")).await;
    let of = |text: &str| bid(&page, text);
    let (name, select, check, file) =
        (of("textbox"), of("listbox"), of("checkbox"), of("button 'Choose File"));
    let go = of("button 'Go'");
    let done = good(
        &running,
        &format!(
            "fill('{name}', 'it\\'s \"me\"')\nselect_option('{select}', ['r', 'Green'])\nclick('{check}')\n\
             upload_file('{file}', 'up.txt')\nclick('{go}')"
        ),
    )
    .await;
    assert!(done.contains("it\\'s \"me\"/r,g/true/up.txt"), "{done}");
    let done = good(&running, &format!("press('{name}', 'ControlOrMeta+a') press('{name}', 'x')")).await;
    assert!(done.contains("Control^ a^ x") && done.contains("value='x'"), "{done}");
    let done = good(&running, &format!("clear('{name}')\nfocus('{name}')")).await;
    assert!(
        done.contains(&format!("[Focused element bid: {name}]")) && !done.contains("value='x'"),
        "{done}"
    );
    // What cannot be done is told, and what was before it is done.
    let off = bid(&page, "button 'Off'");
    let why = wrong(&running, &format!("fill('{name}', 'kept')\nclick('{off}')")).await;
    assert!(why.starts_with("TimeoutError: Locator.click: Timeout 500ms exceeded.\nCall log:\n"), "{why}");
    let why = wrong(&running, &format!("select_option('{select}', 'Blue')")).await;
    assert!(why.contains("did not find some options"), "{why}");
    let why = wrong(&running, &format!("fill('{go}', 'x')")).await;
    assert!(why.contains("Element is not an <input>"), "{why}");
    assert!(
        wrong(&running, &format!("upload_file('{file}', 'none.txt')")).await.starts_with("FileNotFoundError")
    );
    assert!(good(&running, "noop(1)").await.contains("value='kept'"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_tabs_dialogs_history_and_drags() {
    let Some(running) = runtime().await else { return };
    let url = pages().await;
    let page = good(&running, &format!("goto('{url}/frames')")).await;
    let inner = bid(&page, "button 'Inner'");
    assert!(inner.starts_with('a'), "{inner}");
    let page = good(&running, &format!("click('{inner}')")).await;
    assert!(
        page.contains("button 'pressed'") && page.contains(&format!("[Focused element bid: {inner}]")),
        "{page}"
    );
    // A link that opens a tab.
    let page = good(&running, &format!("goto('{url}/tabs')")).await;
    let body = code(&running, &format!("click('{}')", bid(&page, "link 'new'"))).await;
    let extras = &body["extras"];
    assert_eq!(extras["url"], format!("{url}/inner"), "{}", body["content"]);
    assert_eq!(
        (&extras["active_page_index"], extras["open_pages_urls"].as_array().unwrap().len()),
        (&json!(1), 2)
    );
    let body = code(&running, "tab_focus(0)").await;
    assert_eq!(
        (&body["extras"]["active_page_index"], &body["extras"]["url"]),
        (&json!(0), &json!(format!("{url}/tabs")))
    );
    assert_eq!(wrong(&running, "tab_focus(7)").await, "IndexError: list index out of range");
    let body = code(&running, "new_tab()").await;
    assert_eq!(
        (&body["extras"]["active_page_index"], &body["extras"]["url"]),
        (&json!(2), &json!("about:blank"))
    );
    for left in [2, 1, 1] {
        let body = code(&running, "tab_close()").await;
        assert_eq!(
            body["extras"]["open_pages_urls"].as_array().unwrap().len(),
            left,
            "{}",
            body["extras"]["open_pages_urls"]
        );
    }
    // A dialog holds nothing up.
    let page = good(&running, &format!("goto('{url}/alert')")).await;
    assert!(good(&running, &format!("click('{}')", bid(&page, "Alert"))).await.contains("button 'after'"));
    let body = code(&running, &format!("goto('{url}/redirect')")).await;
    assert_eq!(body["extras"]["url"], format!("{url}/inner"));
    assert!(good(&running, "go_back()").await.contains("Alert"));
    assert!(good(&running, "go_forward() go_forward()").await.contains("Inner"));
    assert!(good(&running, &format!("goto('{url}/later')")).await.contains("now"));
    let page = good(&running, &format!("goto('{url}/drag')")).await;
    // Nobody knows the boxes by their names: html, head, title, body, and then they.
    let page = good(&running, "drag_and_drop('4', '5')").await.replace(&page, "");
    assert!(page.contains("dropped"), "{page}");
    let page = good(&running, &format!("goto('{url}/long')")).await;
    assert!(good(&running, "scroll(0, 300) noop(100)").await.contains("RootWebArea 'S'"), "{page}");
    assert!(good(&running, &format!("click('{}')", bid(&page, "bottom"))).await.contains("Inner"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_are_in_the_workspace() {
    let Some(running) = runtime().await else { return };
    let url = pages().await;
    let body = code(&running, &format!("goto('{url}/file.pdf')")).await;
    assert_eq!(body["observation"], "download", "{body}");
    let path = format!("{}/file_1.pdf", running.work);
    assert_eq!(body["extras"], json!({ "file_path": path }));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "%PDF-1.7 a file");
    assert!(body["content"].as_str().unwrap().ends_with(&format!("is saved at location: {path}")));
    // A click is no error, so its file is told with the next one, as by the original.
    let page = good(&running, &format!("goto('{url}/links')")).await;
    good(&running, &format!("click('{}')", bid(&page, "get it"))).await;
    let told = code(&running, "goto('not an address')").await;
    assert_eq!(told["extras"], json!({ "file_path": format!("{}/file_2.pdf", running.work) }), "{told}");
    running.stop().await;
}

/// Processes whose arguments have `text`.
fn processes(text: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let args = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&args).contains(text) {
            found.push(pid);
        }
    }
    found
}

/// The directory of the profile of the browser that runs as a child of this process and visited `url`.
async fn profile(running: &Running) -> String {
    let downloads = format!("{}/.downloads", running.work);
    assert!(std::path::Path::new(&downloads).is_dir());
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if !status.lines().any(|l| l.strip_prefix("PPid:").is_some_and(|p| p.trim() == own)) {
            continue;
        }
        let args = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let args = String::from_utf8_lossy(&args).into_owned();
        let dir = args.split('\0').find_map(|a| a.strip_prefix("--user-data-dir="));
        let env = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if let Some(dir) = dir
            && String::from_utf8_lossy(&env).contains(&format!("FLEETCORE_TEST_NAME={}", running.work))
        {
            return dir.to_owned();
        }
    }
    panic!("there is no browser");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_that_dies_or_hangs_is_replaced_and_nothing_is_left_of_it() {
    if !chromium() {
        return;
    }
    let name = tempfile::tempdir().unwrap().path().display().to_string();
    let env = [("FLEETCORE_TEST_NAME", name.as_str()), ("SESSION_API_KEY", "sesame-7391")];
    let mut running = Running::start(&ROOT, &env).await;
    let key = reqwest::header::HeaderMap::from_iter([(
        "X-Session-API-Key".parse::<reqwest::header::HeaderName>().unwrap(),
        "sesame-7391".parse().unwrap(),
    )]);
    running.http = reqwest::Client::builder().default_headers(key).build().unwrap();
    let url = pages().await;
    let work = std::mem::replace(&mut running.work, name);
    std::fs::create_dir_all(format!("{}/.downloads", running.work)).unwrap();
    let page = good(&running, &format!("goto('{url}/hang')")).await;
    let first = profile(&running).await;
    for pid in processes(&first) {
        let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&env).contains("sesame-7391"),
            "the key is in the environment of {pid}"
        );
    }
    // A script that never ends, and a server that never answers.
    let hang = json!({ "browser_actions": format!("click('{}')", bid(&page, "Hang")) });
    let (_, body) = running.act(json!({ "action": "browse_interactive", "args": hang, "timeout": 2 })).await;
    let late = "Browser environment took too long to respond.";
    assert_eq!(
        (&body["extras"]["last_browser_action_error"], &body["extras"]["error"]),
        (&json!(late), &json!(true))
    );
    let never = json!({ "url": format!("{url}/never") });
    let (_, body) = running.act(json!({ "action": "browse", "args": never, "timeout": 1 })).await;
    assert!(body["content"].as_str().unwrap().contains(late), "{body}");
    good(&running, &format!("goto('{url}/inner')")).await;
    // Death.
    let second = profile(&running).await;
    let leader = processes(&format!("--user-data-dir={second}")).into_iter().min().unwrap();
    let killed = std::process::Command::new("kill").args(["-9", &leader.to_string()]).status().unwrap();
    assert!(killed.success());
    let body = code(&running, "noop(1)").await;
    let said = body["extras"]["last_browser_action_error"].as_str().unwrap();
    assert!(said.is_empty() || said.starts_with("The browser died."), "{said}");
    assert!(good(&running, &format!("goto('{url}/inner')")).await.contains("Inner"));
    let third = profile(&running).await;
    running.work = work;
    running.stop().await;
    for dir in [first, second, third] {
        let dir = dir.strip_suffix("/profile").unwrap().to_owned();
        // Those that watch over it end by themselves a moment later.
        until("no processes are left", || processes(&dir).is_empty()).await;
        assert!(!std::path::Path::new(&dir).exists(), "{dir} is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_pages_are_told_in_part() {
    let Some(running) = runtime().await else { return };
    let url = pages().await;
    let (_, body) = running.act(json!({ "action": "browse", "args": { "url": format!("{url}/big") } })).await;
    let content = body["content"].as_str().unwrap();
    assert!(content.contains("start") && content.contains("[... the rest of the page is left out ...]"));
    assert!(content.len() < 2 << 20, "{}", content.len());
    assert_eq!(body["extras"]["error"], false);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_browser_there_is_one_answer() {
    let none = "Browser functionality is not supported or disabled.";
    let mut disabled = ROOT.to_vec();
    disabled.push("--no-enable-browser");
    let missing = [("FLEETCORE_CHROMIUM", "/nonexistent/chromium")];
    // One that is there and is no browser.
    let broken = [("FLEETCORE_CHROMIUM", "/bin/false")];
    for (args, env) in [(&disabled[..], &[][..]), (&ROOT[..], &missing[..]), (&ROOT[..], &broken[..])] {
        let running = Running::start(args, env).await;
        for action in [
            json!({ "action": "browse", "args": { "url": "http://127.0.0.1/" } }),
            json!({ "action": "browse_interactive", "args": { "browser_actions": "noop()" } }),
        ] {
            let (status, body) = running.act(action).await;
            assert_eq!(
                (status, &body["observation"], &body["content"]),
                (200, &json!("error"), &json!(none))
            );
        }
        running.stop().await;
    }
}
