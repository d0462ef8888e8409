//! Which request is which. Not the framework's own table: the original answers 405 without `Allow`, also to `HEAD`,
//! 307 to a slash too many, and other things again once there is an MCP proxy.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use serde_json::json;

use super::{
    auth,
    mcp::Proxy,
    reply,
    runtime::{FileRequest, Runtime},
    watch,
};

/// Longest body of an action: a file to write is part of it.
const ACTION_MAX: usize = 256 << 20;
/// Longest body of anything else that is read as a whole.
const BODY_MAX: usize = 4 << 20;

/// Where the routes are mounted, when that is not the root of a server.
#[derive(Clone, Debug)]
pub(super) struct MountedAt(pub(super) Arc<str>);

/// All of its routes.
pub(super) fn router(runtime: Arc<Runtime>) -> Router {
    Router::new().fallback(serve).with_state(runtime)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Alive,
    Info,
    Processes,
    Metrics,
    Execute,
    UpdateMcp,
    Files(FileRequest),
    Token,
    Openapi,
    Docs,
}

/// The route of a path, and its method.
fn route(path: &str) -> Option<(Method, Route)> {
    Some(match path {
        "/alive" => (Method::GET, Route::Alive),
        "/server_info" => (Method::GET, Route::Info),
        "/server_info/processes" => (Method::GET, Route::Processes),
        "/metrics" => (Method::GET, Route::Metrics),
        "/execute_action" => (Method::POST, Route::Execute),
        "/update_mcp_server" => (Method::POST, Route::UpdateMcp),
        "/upload_file" => (Method::POST, Route::Files(FileRequest::Upload)),
        "/download_files" => (Method::GET, Route::Files(FileRequest::Download)),
        "/list_files" => (Method::POST, Route::Files(FileRequest::List)),
        "/vscode/connection_token" => (Method::GET, Route::Token),
        "/openapi.json" => (Method::GET, Route::Openapi),
        "/docs" | "/redoc" => (Method::GET, Route::Docs),
        _ => return None,
    })
}

async fn serve(State(runtime): State<Arc<Runtime>>, request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    if let Some(refused) = auth::refusal(runtime.options.key.as_ref(), path, request.headers()) {
        return refused;
    }
    if let Some(below) = path.strip_prefix(watch::PATH) {
        return watch::serve(&runtime, below, &request);
    }
    let route = match route(path) {
        Some((wanted, route)) if wanted == *method => route,
        // The proxy's application is mounted at `/` as well, and takes what does not fit exactly.
        Some(_) if runtime.proxy.mounted() => return nothing_mounted(),
        Some(_) => return reply::method_not_allowed(),
        None => return elsewhere(&runtime, request).await,
    };
    let Some(hands) = runtime.hands() else {
        // DEFECT 22: the original does not listen before it is ready, so that a port somebody has is found last.
        return reply::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "not initialized" }));
    };
    match route {
        Route::Alive => reply::ready(StatusCode::OK, Bytes::from_static(br#"{"status":"ok"}"#)),
        Route::Info => reply::json(StatusCode::OK, &runtime.info.measure()),
        Route::Processes => {
            let runtime = Arc::clone(&runtime);
            match tokio::task::spawn_blocking(move || runtime.resources.list()).await {
                Ok(list) => reply::json(StatusCode::OK, &list),
                Err(_) => reply::unexpected(),
            }
        }
        Route::Metrics => metrics(&runtime).await,
        Route::Execute => match runtime.room.read(request, ACTION_MAX).await {
            Ok(request) => runtime.execute(hands, request).await,
            Err(refused) => refused,
        },
        Route::UpdateMcp => match runtime.room.read(request, BODY_MAX).await {
            // Tool servers are programs of the host, and this runtime is there to keep its agent from that.
            Ok(request) if !hands.here() && !Proxy::is_empty(&request.body) => {
                reply::detail(StatusCode::NOT_IMPLEMENTED, "Tool servers cannot run on this machine yet")
            }
            Ok(request) => runtime.proxy.update(&request.body),
            Err(refused) => refused,
        },
        Route::Files(what) => hands.files(what, request).await,
        Route::Token => reply::json(StatusCode::OK, &json!({ "token": hands.editor_token() })),
        Route::Openapi => reply::json(StatusCode::OK, &openapi()),
        Route::Docs => reply::text(StatusCode::OK, Some("text/html; charset=utf-8"), DOCS),
    }
}

/// For Prometheus.
async fn metrics(runtime: &Arc<Runtime>) -> Response {
    let runtime = Arc::clone(runtime);
    let text = move || runtime.resources.prometheus(&runtime.info, runtime.waiting());
    let Ok(text) = tokio::task::spawn_blocking(text).await else { return reply::unexpected() };
    let mut response = Response::new(axum::body::Body::from(text));
    let kind = axum::http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Paths of the MCP proxy, a slash too many, and what there is not.
async fn elsewhere(runtime: &Arc<Runtime>, request: Request) -> Response {
    let uri = request.uri().clone();
    let path = uri.path();
    let mount = request.extensions().get::<MountedAt>().map_or_else(Arc::default, |at| at.0.clone());
    let proxy = &runtime.proxy;
    if proxy.mounted() {
        let get = request.method() == Method::GET;
        let post = request.method() == Method::POST;
        match path {
            "/mcp/sse" if get => return proxy.listen(&format!("{mount}/mcp/messages/"), request.headers()),
            "/sse" if get => return proxy.listen(&format!("{mount}/messages/"), request.headers()),
            "/mcp/messages/" | "/messages/" if post => {
                let kind =
                    request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
                if !kind.to_ascii_lowercase().starts_with(b"application/json") {
                    return reply::text(StatusCode::BAD_REQUEST, None, "Invalid Content-Type header");
                }
                return match runtime.room.read(request, ACTION_MAX).await {
                    Ok(request) => proxy.message(uri.query(), request).await,
                    Err(refused) => refused,
                };
            }
            "/mcp/sse" | "/sse" => {
                let text = "Method Not Allowed";
                let plain = Some("text/plain; charset=utf-8");
                return allowing("GET, HEAD", reply::text(StatusCode::METHOD_NOT_ALLOWED, plain, text));
            }
            "/mcp/messages/" | "/messages/" => {
                return allowing("POST", reply::text(StatusCode::METHOD_NOT_ALLOWED, None, ""));
            }
            "/mcp/messages" | "/messages" => {
                return reply::redirect(&address(&request, &mount, &format!("{path}/")));
            }
            _ => return nothing_mounted(),
        }
    }
    let without = path.trim_end_matches('/');
    if without != path && route(without).is_some() {
        return reply::redirect(&address(&request, &mount, without));
    }
    reply::not_found()
}

fn nothing_mounted() -> Response {
    reply::text(StatusCode::NOT_FOUND, Some("text/plain; charset=utf-8"), "Not Found")
}

fn allowing(methods: &'static str, mut response: Response) -> Response {
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

/// The same address without the slash at its end.
pub(super) fn without_slash(request: &Request, path: &str) -> Response {
    reply::redirect(&address(request, "", path))
}

/// Another path of this server. The original tells a whole address, which begins with `http`; that is not how clients
/// reach a server behind TLS. There, and where the routes are part of a larger server, the path alone is told: it means
/// the same server whatever is in front of it.
fn address(request: &Request, mount: &str, path: &str) -> String {
    let headers = request.headers();
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let plain = mount.is_empty() && headers.get("x-forwarded-proto").is_none_or(|proto| proto == "http");
    match headers.get(header::HOST).and_then(|h| h.to_str().ok()).filter(|_| plain) {
        Some(host) => format!("http://{host}{path}{query}"),
        // Two slashes at the start would mean another host.
        None => format!("/{}{query}", format!("{mount}{path}").trim_start_matches('/')),
    }
}

const DOCS: &str = "<!DOCTYPE html>\n<html><head><title>FastAPI</title></head><body>\
                    <p>The runtime of an AI coding agent. Its routes are in <a href=\"/openapi.json\">openapi.json</a>.\
                    </p></body></html>\n";

/// As much of the original's document as says which routes there are.
fn openapi() -> serde_json::Value {
    let all = [
        "/alive",
        "/server_info",
        "/execute_action",
        "/update_mcp_server",
        "/upload_file",
        "/download_files",
        "/list_files",
        "/vscode/connection_token",
    ];
    let paths: serde_json::Map<String, serde_json::Value> = all
        .into_iter()
        .filter_map(|path| {
            let method = route(path)?.0.as_str().to_ascii_lowercase();
            let responses = json!({ "200": { "description": "Successful Response" } });
            Some((path.to_owned(), json!({ method: { "responses": responses } })))
        })
        .collect();
    json!({ "openapi": "3.1.0", "info": { "title": "FastAPI", "version": "0.1.0" }, "paths": paths })
}
