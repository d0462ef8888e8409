//! Recorded exchanges about files, replayed.

use std::{
    collections::HashSet,
    io::{Cursor, Read},
    path::Path,
    process::Command,
};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleetcore::Fleet;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{
    action::{self, Act, Deed},
    archive,
    files::Workspace,
    list, viewer,
};

/// What the records say the working directory is.
const RECORDED: &str = "/workspace";

/// How an answer deliberately differs.
enum Instead {
    /// Status 200; what is shown begins like this.
    Shown(&'static str),
    /// Status 200; an archive of these files.
    Files(&'static [&'static str]),
    /// The same as recorded: only what it did differs.
    Same,
}

use Instead::{Files, Same, Shown};

/// Answers that differ, and the number of the contract's defect. All records marked as defects are here.
const DIFFERENT: &[(&str, u8, Instead)] = &[
    ("read-nul-relative", 6, Shown("ERROR_BINARY_FILE")),
    (
        "read-png-absolute-is-binary-error",
        6,
        Shown("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAA"),
    ),
    (
        "read-binary-pdf-absolute",
        6,
        Shown("data:application/pdf;base64,JVBERi0xLjQKJeLjz9MKAAECAwQFBgcICQoL"),
    ),
    ("write-crlf-check", 8, Shown("a^M$\nN^M$\nb^M$")),
    (
        "view-dir-with-space-breaks",
        7,
        Shown(
            "Here's the files and directories up to 2 levels deep in /workspace/sp ace, excluding hidden \
             items:\n/workspace/sp ace/",
        ),
    ),
    // 6.6, encodings.
    (
        "view-latin1-detected",
        8,
        Shown(
            "Here's the result of running `cat -n` on /workspace/latin1.txt:\n     1\tcafé déjà vu à la carte, garçon, \
             où est la bibliothèque\n",
        ),
    ),
    ("insert-latin1", 8, Shown("The file /workspace/latin1.txt has been edited. ")),
    // The insertion above was made.
    ("latin1-check", 8, Shown("")),
    ("insert-check", 8, Shown("644\ntop$\nx$\nstrline$\nl1$\nm1$\nm2$\nl2$\nl3$\nbottom$")),
    (
        "insert-after-unterminated-last-line",
        8,
        Shown(
            "The file /workspace/nonl.txt has been edited. Here's the result of running `cat -n` on a snippet of the \
             edited file:\n     1\ta\n     2\tb\n     3\tc\n     4\t\nReview",
        ),
    ),
    ("insert-unterminated-check", 8, Shown("a$\nb$\nc$")),
    ("str-replace-crlf-check", 8, Shown("one^M$\nTWO^M$")),
    ("insert-symlink-replaces-link", 8, Same),
    ("symlink-check", 8, Shown("symbolic link\ntop")),
    ("upload-bad-zip-leftover", 9, Shown("")),
    ("upload-filename-traversal", 9, Same),
    ("upload-filename-traversal-check", 9, Shown("ls: cannot access")),
    ("download-file-gives-empty-zip", 11, Files(&["b.txt"])),
    ("download-dangling-symlink", 11, Files(&[".h/hid", "link", "real"])),
    ("download-pre-1980", 11, Files(&["f"])),
    (
        "viewer-path-not-escaped",
        13,
        Shown("<h1>Error: Path must be absolute</h1><p>&lt;script&gt;1&lt;/script&gt;</p>"),
    ),
];

/// What others answer: arguments of the wrong kind, methods, and the file that says where the viewer is.
const ELSEWHERE: &[&str] = &[
    "read-path-int",
    "read-start-string",
    "write-content-int",
    "write-content-missing",
    "edit-no-path",
    "edit-llm-based",
    "edit-view-range-not-accepted",
    "legacy-translated-code",
    "list-get-405",
    "download-post-405",
    "port-file",
];

/// Show who runs the tests.
const NEED_ROOT: &[&str] = &["write-new-cat", "upload-simple-check"];

fn recorded(session: &str) -> Option<Vec<Value>> {
    fleetcore_testkit::recorded("openhands-runtime", &format!("{session}.jsonl"))
}

struct Replay {
    dir: tempfile::TempDir,
    cwd: String,
    workspace: Workspace,
    failures: Vec<String>,
}

impl Replay {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("workspace").display().to_string();
        std::fs::create_dir(&top).unwrap();
        let files = Fleet::local().machine("local").unwrap().files().await.unwrap();
        Self { workspace: Workspace::new(files, &top, None), cwd: top, dir, failures: Vec::new() }
    }

    fn top(&self) -> String {
        self.workspace.working_dir.to_string()
    }

    fn there(&self, value: &Value) -> Value {
        serde_json::from_str(&value.to_string().replace(RECORDED, &self.top())).unwrap()
    }

    fn back(&self, text: &str) -> String {
        text.replace(&self.top(), RECORDED)
    }

    /// Runs a command where the shell would be, and says where it is then.
    fn shell(&mut self, command: &str) -> String {
        let pwd = self.dir.path().join("pwd");
        let script = format!("exec 2>&1; {command}\npwd >'{}'", pwd.display());
        let run = Command::new("bash").args(["-c", &script]).current_dir(&self.cwd).output().unwrap();
        self.cwd = std::fs::read_to_string(pwd).unwrap().trim_end().to_owned();
        String::from_utf8_lossy(&run.stdout).trim().to_owned()
    }

    /// Status and body of a request to act.
    async fn act(&mut self, body: &Value) -> (u16, Value) {
        let event = action::parse(body.to_string().as_bytes(), Some("application/json")).unwrap();
        let Act::Do(deed) = event.act else { panic!("{event:?}") };
        let done = match *deed {
            Deed::Read(args) => self.workspace.read(&self.cwd, &args).await,
            Deed::Write(args) => self.workspace.write(&self.cwd, &args).await,
            Deed::Edit(args) => self.workspace.edit(&args).await,
            Deed::Run(args) => return (200, json!({ "content": self.shell(&args.command) })),
            other => panic!("{other:?}"),
        };
        match done {
            Ok(observation) => (200, serde_json::to_value(&observation).unwrap()),
            Err(text) => (500, json!({ "detail": format!("Internal server error: {text}") })),
        }
    }

    async fn http(&self, request: &Value) -> Response {
        let path = request["path"].as_str().unwrap();
        let query = request["query"].as_object().map(|query| {
            let pairs: Vec<_> =
                query.iter().map(|(k, v)| format!("{k}={}", percent(v.as_str().unwrap()))).collect();
            pairs.join("&")
        });
        let uri = format!("{path}?{}", query.unwrap_or_default());
        let mut built = Request::builder().method(request["method"].as_str().unwrap()).uri(uri);
        for (name, value) in request["headers"].as_object().into_iter().flatten() {
            built = built.header(name, value.as_str().unwrap());
        }
        let body = if let Some(parts) = request["multipart"].as_array() {
            built = built.header("content-type", "multipart/form-data; boundary=xyz");
            form(parts)
        } else if let Some(raw) = request["raw"].as_str() {
            raw.as_bytes().to_vec()
        } else {
            request.get("json").map(|json| json.to_string().into_bytes()).unwrap_or_default()
        };
        let built = built.body(Body::from(body)).unwrap();
        if request["port"] == "viewer" {
            return viewer::routes(self.workspace.files.clone()).oneshot(built).await.unwrap();
        }
        match path {
            "/upload_file" => archive::upload(&self.workspace, built).await,
            "/download_files" => archive::download(&self.workspace, built).await,
            "/list_files" => list::list(&self.workspace, built).await,
            other => panic!("{other}"),
        }
    }

    async fn step(&mut self, record: &Value) {
        let name = record["name"].as_str().unwrap();
        let request = self.there(&record["request"]);
        let different = DIFFERENT.iter().find(|(n, ..)| *n == name).map(|(.., instead)| instead);
        let marked = record["records_defect"] == true;
        assert!(!marked || different.is_some(), "{name} is marked as a defect");
        let (status, body, files) = if request["path"] == "/execute_action" {
            let (status, body) = self.act(&request["json"]).await;
            (status, body, None)
        } else {
            answer(self.http(&request).await).await
        };
        let body: Value = serde_json::from_str(&self.back(&body.to_string())).unwrap();
        let expected = &record["response"];
        let fine = match different {
            Some(Shown(start)) => {
                let shown = body["content"].as_str().or(body.as_str()).unwrap_or_default();
                (status == 200 || name.starts_with("viewer")) && shown.starts_with(start)
            }
            Some(Files(names)) => {
                let mut found: Vec<_> = files.iter().flatten().map(|(name, _)| name.as_str()).collect();
                found.sort_unstable();
                status == 200 && found == *names
            }
            Some(Same) | None => {
                let same_status = status == record["status"].as_u64().unwrap() as u16;
                same_status && same(&request, &body, files.as_deref(), expected)
            }
        };
        if !fine {
            self.failures.push(format!("{name}: {status} {body} {files:?}\n   recorded {expected}"));
        }
    }
}

fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn form(parts: &[Value]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        body.extend_from_slice(
            format!("--xyz\r\ncontent-disposition: form-data; name={}", part["field"]).as_bytes(),
        );
        if let Some(name) = part["filename"].as_str() {
            let name = name.replace('"', "\\\"");
            body.extend_from_slice(format!("; filename=\"{name}\"").as_bytes());
        }
        if let Some(kind) = part["content_type"].as_str() {
            body.extend_from_slice(format!("\r\ncontent-type: {kind}").as_bytes());
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend(STANDARD.decode(part["content_base64"].as_str().unwrap()).unwrap());
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--xyz--\r\n");
    body
}

type Unzipped = Vec<(String, Vec<u8>)>;

fn unzip(bytes: &[u8]) -> Option<Unzipped> {
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).ok()?;
    let mut files = Vec::new();
    for at in 0..zip.len() {
        let mut file = zip.by_index(at).unwrap();
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).unwrap();
        assert_eq!(file.compression(), zip::CompressionMethod::Stored);
        files.push((file.name().unwrap().into_owned(), contents));
    }
    Some(files)
}

/// Status, body as JSON (or text, or Base64), and the files if it is an archive.
async fn answer(response: Response) -> (u16, Value, Option<Unzipped>) {
    let status = response.status().as_u16();
    let length =
        response.headers().get("content-length").map(|n| n.to_str().unwrap().parse::<usize>().unwrap());
    let kind = response
        .headers()
        .get("content-type")
        .map(|kind| kind.to_str().unwrap().to_owned())
        .unwrap_or_default();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    assert!(length.is_none_or(|n| n == bytes.len()));
    let (body, files) = match kind.as_str() {
        "application/json" => (serde_json::from_slice(&bytes).unwrap(), None),
        "application/zip" => (STANDARD.encode(&bytes).into(), unzip(&bytes)),
        _ => (String::from_utf8(bytes.to_vec()).unwrap().into(), None),
    };
    (status, body, files)
}

fn same(request: &Value, body: &Value, files: Option<&[(String, Vec<u8>)]>, expected: &Value) -> bool {
    if let Some(wanted) = expected["zip"].as_array() {
        let mut wanted: Unzipped = wanted
            .iter()
            .map(|file| {
                let contents = STANDARD.decode(file["content_base64"].as_str().unwrap()).unwrap();
                (file["name"].as_str().unwrap().to_owned(), contents)
            })
            .collect();
        let mut files = files.unwrap_or_default().to_vec();
        // Those of a directory come before those of its directories; for the rest the system's order was recorded.
        let depths: Vec<_> = files.iter().map(|(name, _)| name.matches('/').count()).collect();
        files.sort();
        wanted.sort();
        return files == wanted && depths.is_sorted();
    }
    if let Some(wanted) = expected.get("base64") {
        return body == wanted;
    }
    if let Some(wanted) = expected.get("text") {
        return body == wanted;
    }
    if let Some(facts) = expected.get("html_facts") {
        return html_facts(body.as_str().unwrap()) == *facts;
    }
    let expected = &expected["json"];
    if request["json"]["action"]["action"] == "run" {
        return body["content"] == expected["content"];
    }
    if expected["errors"].is_string() {
        return body["detail"] == expected["detail"] && body["errors"].is_string();
    }
    body == expected
}

fn html_facts(page: &str) -> Value {
    let between = |start: &str, end: &str| page.split_once(start).unwrap().1.split_once(end).unwrap().0;
    let mut facts = json!({ "title": between("<title>", "</title>").replace("&quot;", "\"") });
    for name in ["filePath", "fileExtension", "fileContent", "fileBase64", "mimeType"] {
        facts[name] = serde_json::from_str(between(&format!("const {name} = "), ";\n")).unwrap();
    }
    facts
}

async fn replay(session: &str) {
    let Some(records) = recorded(session) else { return };
    let mut replay = Replay::new().await;
    let root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(replay.dir.path()).unwrap()) == 0;
    for record in records.iter().filter(|record| record["name"].is_string()) {
        let name = record["name"].as_str().unwrap();
        if !ELSEWHERE.contains(&name) && (root || !NEED_ROOT.contains(&name)) {
            replay.step(record).await;
        }
    }
    assert!(replay.failures.is_empty(), "{}", replay.failures.join("\n"));
}

#[tokio::test]
async fn reading() {
    replay("files-read").await;
}

#[tokio::test]
async fn writing() {
    replay("files-write").await;
}

#[tokio::test]
async fn viewing() {
    replay("files-view-oh-aci").await;
}

#[tokio::test]
async fn editing() {
    replay("files-edit").await;
}

#[tokio::test]
async fn transfers() {
    replay("list-upload-download").await;
}

#[tokio::test]
async fn the_viewer() {
    replay("file-viewer").await;
}

#[test]
fn the_tables_name_records() {
    let sessions = [
        "files-read",
        "files-write",
        "files-view-oh-aci",
        "files-edit",
        "list-upload-download",
        "file-viewer",
    ];
    let Some(records) = sessions.into_iter().map(recorded).collect::<Option<Vec<_>>>() else { return };
    let names: HashSet<_> = records.iter().flatten().filter_map(|record| record["name"].as_str()).collect();
    for name in DIFFERENT.iter().map(|(name, ..)| name).chain(ELSEWHERE).chain(NEED_ROOT) {
        assert!(names.contains(name), "{name}");
    }
    assert!(DIFFERENT.iter().all(|(_, defect, _)| (1..=24).contains(defect)));
}

#[tokio::test]
async fn a_bomb_a_lie_and_a_link_do_no_harm() {
    use std::io::Write as _;
    use zip::{ZipWriter, write::SimpleFileOptions};
    let replay = Replay::new().await;
    let outside = replay.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let options = SimpleFileOptions::default();
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.add_symlink("out", outside.to_str().unwrap(), options).unwrap();
    zip.start_file("plain/in.txt", options).unwrap();
    zip.write_all(b"in").unwrap();
    zip.add_directory("empty/", options).unwrap();
    let good = zip.finish().unwrap().into_inner();
    // The same with one byte of the contents changed: the checksum is wrong then.
    let mut bad = good.clone();
    let name = b"plain/in.txt";
    let contents = good.windows(name.len()).position(|part| part == name).unwrap() + name.len();
    bad[contents] ^= 1;
    let send = async |bytes: &[u8], to: &str| {
        let part = json!({ "field": "file", "filename": "a.zip", "content_base64": STANDARD.encode(bytes) });
        let request = json!({
            "method": "POST", "path": "/upload_file", "query": { "destination": format!("{}/{to}", replay.top()) },
            "multipart": [part],
        });
        let (status, body, _) = answer(replay.http(&request).await).await;
        (status, body.to_string())
    };
    assert_eq!(send(&good, "good").await.0, 200);
    let good_dir = Path::new(&*replay.workspace.working_dir).join("good");
    assert!(std::fs::symlink_metadata(good_dir.join("out")).unwrap().is_file());
    assert!(good_dir.join("empty").is_dir());
    assert_eq!(std::fs::read(good_dir.join("plain/in.txt")).unwrap(), b"in");
    assert_eq!(send(&bad, "bad").await.0, 500);

    // In the table of contents one that says it has almost 2 GiB, and one that says it has one byte.
    for (to, size, why) in [("bomb", i32::MAX as u32, "too much"), ("lie", 1, "")] {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("f", options).unwrap();
        zip.write_all(b"content").unwrap();
        let mut bytes = zip.finish().unwrap().into_inner();
        let table = bytes.windows(4).position(|part| part == b"PK\x01\x02").unwrap();
        bytes[table + 24..table + 28].copy_from_slice(&size.to_le_bytes());
        let (status, text) = send(&bytes, to).await;
        assert_eq!((status, text.contains(why)), (500, true), "{to} {text}");
    }
    assert!(!Path::new(&*replay.workspace.working_dir).join("bomb/f").exists());
}

#[tokio::test]
async fn a_range_is_the_same_part_of_the_archive() {
    let replay = Replay::new().await;
    let top = Path::new(&*replay.workspace.working_dir).to_owned();
    let large: Vec<u8> = (0..5_u32 << 20).map(|n| (n % 251) as u8).collect();
    std::fs::write(top.join("large"), &large).unwrap();
    std::fs::create_dir(top.join("sub dir")).unwrap();
    std::fs::write(top.join("sub dir/é"), "x").unwrap();
    let get = async |range: Option<&str>| {
        let headers = range.map_or(json!({}), |range| json!({ "Range": range }));
        let request = json!({ "method": "GET", "path": "/download_files", "query": { "path": replay.top() }, "headers": headers });
        let response = replay.http(&request).await;
        let status = response.status();
        let content_range = response.headers().get("content-range").map(|r| r.to_str().unwrap().to_owned());
        (status, content_range, to_bytes(response.into_body(), 16 << 20).await.unwrap())
    };
    let (status, _, whole) = get(None).await;
    assert_eq!(status, StatusCode::OK);
    let files = unzip(&whole).unwrap();
    assert_eq!(files, [("large".to_owned(), large), ("sub dir/é".to_owned(), b"x".to_vec())]);
    let total = whole.len();
    let (status, range, part) = get(Some("bytes=1000000-")).await;
    assert_eq!(
        (status, range),
        (StatusCode::PARTIAL_CONTENT, Some(format!("bytes 1000000-{}/{total}", total - 1)))
    );
    assert!(part == whole[1_000_000..]);
    assert!(get(Some("bytes=-40")).await.2 == whole[total - 40..]);
    assert_eq!(get(Some("bytes=999999999-")).await.0, StatusCode::RANGE_NOT_SATISFIABLE);
}
