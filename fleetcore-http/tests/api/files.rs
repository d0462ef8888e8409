use reqwest::Method;
use serde_json::{Value, json};

use super::common::*;

fn at(h: &Harness, rest: &str, name: &str) -> String {
    let path = h.dir.path().join(name);
    format!("/api/v1/targets/local/files{rest}?path={}", path.to_str().unwrap())
}

#[tokio::test]
async fn files_are_written_and_read_back() {
    let h = start().await;
    let big: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let put = |query: &str, body: Vec<u8>| {
        h.request(Method::PUT, &format!("{}{query}", at(&h, "", "f"))).body(body).send()
    };
    let made = put("&mode=0640", big.clone()).await.unwrap();
    assert_eq!(made.status(), 201);
    let made: Value = made.json().await.unwrap();
    assert_eq!(
        (made["size"].as_u64(), made["mode"].as_str(), made["kind"].as_str()),
        (Some(1_000_000), Some("0640"), Some("file"))
    );
    let got = h.get(&at(&h, "", "f")).send().await.unwrap();
    assert_eq!(got.headers()["content-length"], "1000000");
    let etag = got.headers()["etag"].clone();
    assert!(got.headers()["last-modified"].to_str().unwrap().ends_with(" GMT"));
    assert_eq!(got.bytes().await.unwrap(), big);
    let same = h.get(&at(&h, "", "f")).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(same.status(), 304);
    for (range, from, to) in
        [("bytes=0-9", 0, 10), ("bytes=999990-", 999_990, 1_000_000), ("bytes=-5", 999_995, 1_000_000)]
    {
        let part = h.get(&at(&h, "", "f")).header("range", range).send().await.unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.headers()["content-range"], format!("bytes {from}-{}/1000000", to - 1));
        assert_eq!(part.bytes().await.unwrap(), big[from..to]);
    }
    let beyond = h.get(&at(&h, "", "f")).header("range", "bytes=1000000-").send().await.unwrap();
    problem(beyond, 416, "range_not_satisfiable").await;
    assert_eq!(put("", b"new".to_vec()).await.unwrap().status(), 200);
    assert_eq!(put("&append=true", b" and more".to_vec()).await.unwrap().status(), 200);
    assert_eq!(h.get(&at(&h, "", "f")).send().await.unwrap().text().await.unwrap(), "new and more");
    assert_eq!(put("&atomic=false", vec![]).await.unwrap().status(), 200);
    assert_eq!(h.get(&at(&h, "", "f")).send().await.unwrap().bytes().await.unwrap().len(), 0);
    for bad in ["&mode=999", "&mode=rw", "&append=true&atomic=true", "&colour=red", "&append=maybe"] {
        problem(put(bad, vec![]).await.unwrap(), 400, "invalid_input").await;
    }
    let left: Vec<_> = std::fs::read_dir(h.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["f"], "no temporary files stay");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_the_old_file() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let h = start_with(|c| c.limits.upload_bytes = 1_000_000).await;
    std::fs::write(h.dir.path().join("f"), "old").unwrap();
    let request = format!(
        "PUT {} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-length: 900000\r\n\r\nhalf",
        at(&h, "", "f"),
        h.token
    );
    let mut socket = tokio::net::TcpStream::connect(h.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = vec![];
    let _ = socket.read_to_end(&mut answer).await;
    let too_large = h.request(Method::PUT, &at(&h, "", "f")).body(vec![0; 1_000_001]).send().await.unwrap();
    problem(too_large, 413, "too_large").await;
    let pieces = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![0u8; 100_000])));
    // The server may answer before all of it is sent; both ends of that race are fine.
    if let Ok(response) =
        h.request(Method::PUT, &at(&h, "", "f")).body(reqwest::Body::wrap_stream(pieces)).send().await
    {
        problem(response, 413, "too_large").await;
    }
    assert_eq!(std::fs::read_to_string(h.dir.path().join("f")).unwrap(), "old");
}

#[tokio::test]
async fn directories_are_made_listed_renamed_and_removed() {
    let h = start().await;
    let root = h.dir.path().to_str().unwrap().to_owned();
    let post = async |rest: &str, body: Value| {
        h.post_json(&format!("/api/v1/targets/local/files/{rest}"), body).await.0
    };
    assert_eq!(post("mkdir", json!({ "path": format!("{root}/a/b") })).await, 204);
    assert_eq!(
        h.request(Method::PUT, &format!("{}&create_parents=true", at(&h, "", "a/c/d/file")))
            .body("x")
            .send()
            .await
            .unwrap()
            .status(),
        201
    );
    let list = h.json(&at(&h, "/list", "a")).await;
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| (i["path"].as_str().unwrap(), i["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(names, [("b", "dir"), ("c", "dir")]);
    assert_eq!(
        post("rename", json!({ "from": format!("{root}/a/c"), "to": format!("{root}/moved") })).await,
        204
    );
    assert_eq!(h.json(&at(&h, "/stat", "moved/d/file")).await["size"], 1);
    problem(h.get(&at(&h, "", "a")).send().await.unwrap(), 409, "invalid_state").await;
    problem(h.get(&at(&h, "", "none")).send().await.unwrap(), 404, "not_found").await;
    problem(h.get("/api/v1/targets/local/files?path=").send().await.unwrap(), 400, "invalid_input").await;
    problem(h.get("/api/v1/targets/local/files").send().await.unwrap(), 400, "invalid_input").await;
    problem(h.get("/api/v1/targets/local/files?path=a%00b").send().await.unwrap(), 400, "invalid_input")
        .await;
    problem(h.get("/api/v1/targets/a%20b/files?path=/").send().await.unwrap(), 400, "invalid_input").await;
    problem(h.get("/api/v1/targets/none%2Fx/files?path=/").send().await.unwrap(), 404, "not_found").await;
    problem(h.request(Method::DELETE, &at(&h, "", "moved")).send().await.unwrap(), 409, "invalid_state")
        .await;
    assert_eq!(
        h.request(Method::DELETE, &format!("{}&recursive=true", at(&h, "", "moved")))
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    assert!(!h.dir.path().join("moved").exists());
}

#[tokio::test]
async fn trees_travel_as_tar() {
    let h = start().await;
    std::fs::create_dir_all(h.dir.path().join("tree/sub")).unwrap();
    std::fs::write(h.dir.path().join("tree/a"), "A").unwrap();
    std::fs::write(h.dir.path().join("tree/sub/b"), vec![7u8; 300_000]).unwrap();
    let tar = h.get(&at(&h, "/tar", "tree")).send().await.unwrap();
    assert_eq!(tar.headers()["content-type"], "application/x-tar");
    let tar = tar.bytes().await.unwrap();
    let put = h.request(Method::PUT, &at(&h, "/tar", "copy")).body(tar).send().await.unwrap();
    assert_eq!(put.status(), 200);
    assert!(put.json::<Value>().await.unwrap()["entries"].as_u64().unwrap() >= 3);
    assert_eq!(std::fs::read(h.dir.path().join("copy/sub/b")).unwrap(), vec![7u8; 300_000]);
    problem(h.get(&at(&h, "/tar", "none")).send().await.unwrap(), 404, "not_found").await;
    let junk = h.request(Method::PUT, &at(&h, "/tar", "junk")).body(vec![b'j'; 5000]).send().await.unwrap();
    assert!(junk.status().is_client_error(), "{}", junk.status());
}
