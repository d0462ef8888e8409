//! Files over HTTP, 1 KB and 1 MB, beside a bare axum handler that does the same with `tokio::fs`.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::get,
};
use bytes::Bytes;
use criterion::{BenchmarkGroup, Throughput, measurement::WallTime};
use fleetcore_benches::{Http, TestServer, criterion, measure, runtime};
use hyper::Method;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::Mutex,
};

type At = State<Arc<Path>>;

async fn bare_get(State(path): At) -> Result<Bytes, StatusCode> {
    tokio::fs::read(&*path).await.map(Bytes::from).map_err(|_| StatusCode::NOT_FOUND)
}

/// A reader never sees half of a file: written beside it, then renamed, as the product does it.
async fn bare_put(State(path): At, body: Bytes) -> Result<StatusCode, StatusCode> {
    let part = path.with_extension("part");
    let write = async {
        tokio::fs::write(&part, &body).await?;
        tokio::fs::rename(&part, &*path).await
    };
    write.await.map(|()| StatusCode::NO_CONTENT).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn start_bare(path: Arc<Path>) -> SocketAddr {
    let routes = Router::new()
        .route("/file", get(bare_get).put(bare_put))
        .layer(DefaultBodyLimit::disable())
        .with_state(path);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("a port");
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream: &mut TcpStream| {
        stream.set_nodelay(true).expect("a TCP socket");
    });
    tokio::spawn(async move { axum::serve(listener, routes).await });
    addr
}

fn both_ways(
    group: &mut BenchmarkGroup<'_, WallTime>,
    runtime: &Runtime,
    method: &Method,
    size: usize,
    sides: [(&'static str, Http, String); 2],
) {
    for (name, http, path) in sides {
        let http = Arc::new(Mutex::new(http));
        let (path, method): (Arc<str>, Method) = (path.into(), method.clone());
        let body = if method == Method::PUT { Bytes::from(vec![b'x'; size]) } else { Bytes::new() };
        measure(group, runtime, name, move || {
            let (http, path, method, body) = (http.clone(), path.clone(), method.clone(), body.clone());
            async move {
                let writes = method == Method::PUT;
                let answer = http.lock().await.bytes(method, &path, body).await;
                assert!(writes || answer.len() == size, "{} bytes", answer.len());
            }
        });
    }
}

fn main() {
    let runtime = runtime();
    let server = TestServer::start(&runtime);
    let dir = server.dir.path().to_owned();
    let mut c = criterion();
    for (label, size) in [("1k", 1000), ("1m", 1_000_000)] {
        for method in [Method::GET, Method::PUT] {
            let name = method.as_str().to_lowercase();
            let file = dir.join(format!("{name}-{label}"));
            std::fs::write(&file, vec![b'x'; size]).expect("room on the disk");
            let ours = format!("/api/v1/targets/local/files?path={}", file.display());
            let bare = runtime.block_on(start_bare(file.into()));
            let mut group = c.benchmark_group(format!("files-{name}-{label}"));
            group.throughput(Throughput::Bytes(size as u64));
            let sides = [
                ("floor-axum", runtime.block_on(Http::connect(bare, None)), "/file".to_owned()),
                ("fleetcore", runtime.block_on(server.connect()), ours),
            ];
            both_ways(&mut group, &runtime, &method, size, sides);
            group.finish();
        }
    }
    c.final_summary();
}
