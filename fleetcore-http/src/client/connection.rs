//! One server, and who we are to it.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use fleetcore::{Error, ErrorKind, Result, Retry};
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, Response, Upgraded, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};
use url::Url;

use super::{
    ReconnectPolicy, problem,
    wire::{self, Info, Me},
};

/// Everything but RFC 3986's unreserved characters is escaped in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Longest JSON answer or problem document that is read. A page of 1000 commands is well below.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Name of the cookie of a login.
const COOKIE: &str = "fleetcore_login";

/// How requests say who they are.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Nobody: only public routes work.
    #[default]
    Anonymous,
    /// An API token.
    Token(SecretString),
    /// The cookie of a [`Client::login`].
    Login(SecretString),
}

impl Credentials {
    /// An API token.
    pub fn token(secret: impl Into<String>) -> Self {
        Self::Token(SecretString::from(secret.into()))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Token(_) => "Token(redacted)",
            Self::Login(_) => "Login(redacted)",
        })
    }
}

/// Settings of a [`Client`].
#[derive(Debug)]
#[must_use]
pub struct ClientBuilder {
    base: String,
    credentials: Credentials,
    roots: Vec<Vec<u8>>,
    connect_timeout: Duration,
    reconnect: ReconnectPolicy,
}

impl ClientBuilder {
    /// Sets who we are.
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Also trusts these certificates (PEM, one or more), besides those of the system.
    pub fn with_root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Sets how long connecting may take. Default 10 s.
    pub fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Sets how streams come back after the connection broke.
    pub fn with_reconnect(mut self, policy: ReconnectPolicy) -> Self {
        self.reconnect = policy;
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidInput` for a URL that is not `http://` or `https://`, that carries a user name, or for bad
    /// certificates.
    pub fn build(self) -> Result<Client> {
        let rule = "an http:// or https:// URL without user name, query and fragment";
        let invalid = || Error::invalid("server", rule).with_context("value", &self.base);
        let mut base = Url::parse(&self.base).map_err(|e| invalid().with_source(e))?;
        let plain = base.username().is_empty() && base.password().is_none();
        let bare = base.query().is_none() && base.fragment().is_none();
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() || !plain || !bare {
            // The value may hold a password here: say the rule, not the value.
            return Err(Error::invalid("server", rule));
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("fleetcore-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            // Redirects of an API are a misconfiguration, and would carry the token elsewhere.
            .redirect(reqwest::redirect::Policy::none());
        if is_this_host(&base) {
            // HTTP_PROXY is set for the world outside: a proxy would get to see the token of a server of this host.
            http = http.no_proxy();
        }
        for pem in &self.roots {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| {
                Error::invalid("certificate", "one or more certificates in PEM form").with_source(e)
            })?;
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().map_err(|e| problem::transport("client.build", e))?;
        let inner =
            Inner { http, base, credentials: self.credentials, reconnect: self.reconnect, link: None };
        Ok(Client { inner: Arc::new(inner) })
    }
}

/// Whether the address never leaves this host.
fn is_this_host(base: &Url) -> bool {
    match base.host() {
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        None => false,
    }
}

struct Inner {
    http: reqwest::Client,
    base: Url,
    credentials: Credentials,
    reconnect: ReconnectPolicy,
    /// Where requests go instead of the network.
    link: Option<LinkConnector>,
}

/// Anything that carries bytes both ways.
pub(crate) trait LinkIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> LinkIo for T {}

/// Makes a connection for one request.
pub(crate) type LinkConnector = Arc<dyn Fn() -> BoxFuture<'static, Result<Box<dyn LinkIo>>> + Send + Sync>;

/// First and longest pause of streams over a link that come back, and when they give up.
const LINK_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const LINK_GIVE_UP: Duration = Duration::from_secs(600);

/// A fleetcore server. Cheap to clone; clones share connections.
///
/// ```no_run
/// # async fn demo() -> fleetcore::Result<()> {
/// use fleetcore_http::client::{Client, Credentials};
/// let client = Client::new("http://127.0.0.1:7070", Credentials::token("fct_..."))?;
/// for target in client.targets().await? {
///     println!("{} {:?}", target.target, target.state);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.inner.base.as_str())
            .field("credentials", &self.inner.credentials)
            .finish_non_exhaustive()
    }
}

/// A successful login.
#[derive(Debug)]
#[non_exhaustive]
pub struct Login {
    /// Who logged in.
    pub me: Me,
    /// A client that acts as that user, until the login expires or is revoked with [`Client::logout`].
    pub client: Client,
}

impl Client {
    /// A client of the server at `base`, e.g. `http://127.0.0.1:7070`.
    ///
    /// # Errors
    /// As [`ClientBuilder::build`].
    pub fn new(base: impl Into<String>, credentials: Credentials) -> Result<Self> {
        Self::builder(base).with_credentials(credentials).build()
    }

    /// Starts with default settings and nobody's name.
    pub fn builder(base: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            base: base.into(),
            credentials: Credentials::Anonymous,
            roots: vec![],
            connect_timeout: Duration::from_secs(10),
            reconnect: ReconnectPolicy::default(),
        }
    }

    /// The server's address, without a trailing slash.
    pub fn base_url(&self) -> &str {
        self.inner.base.as_str().trim_end_matches('/')
    }

    /// How streams of this client come back after the connection broke.
    pub fn reconnect_policy(&self) -> &ReconnectPolicy {
        &self.inner.reconnect
    }

    /// The same server as somebody else.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        let Inner { http, base, reconnect, link, .. } = &*self.inner;
        let (http, base, reconnect, link) = (http.clone(), base.clone(), reconnect.clone(), link.clone());
        Self { inner: Arc::new(Inner { http, base, credentials, reconnect, link }) }
    }

    /// A client whose requests go through `link`, one connection each. The other side knows who is there.
    pub(crate) fn over_link(link: LinkConnector) -> Result<Self> {
        // Requests are only built by it, never sent: one does for all agents.
        static BUILDER: OnceLock<reqwest::Client> = OnceLock::new();
        let http = match BUILDER.get() {
            Some(http) => http.clone(),
            None => {
                let http = reqwest::Client::builder().no_proxy().build();
                BUILDER.get_or_init(|| http.unwrap_or_default()).clone()
            }
        };
        let base =
            Url::parse("http://localhost/").map_err(|e| Error::invalid("server", "a URL").with_source(e))?;
        let reconnect = ReconnectPolicy::default()
            .with_pauses(LINK_PAUSES.0, LINK_PAUSES.1)
            .with_give_up_after(LINK_GIVE_UP);
        let credentials = Credentials::Anonymous;
        Ok(Self { inner: Arc::new(Inner { http, base, credentials, reconnect, link: Some(link) }) })
    }

    /// What the server says about itself. Needs no credentials.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be reached, `Unexpected` when it is not a fleetcore server.
    pub async fn info(&self) -> Result<Info> {
        let info: Info = self.get("client.info", &["api", "v1", "info"], &[]).await?;
        if info.name != "fleetcore" {
            return Err(Error::new(ErrorKind::Unexpected, "this is not a fleetcore server")
                .with_operation("client.info")
                .with_context("name", info.name));
        }
        Ok(info)
    }

    /// Logs in with a password. The password is sent once and not kept.
    ///
    /// # Errors
    /// `Unauthenticated` for a wrong name or password, `RateLimited` after too many tries.
    pub async fn login(&self, user: &str, password: &SecretString) -> Result<Login> {
        const OP: &str = "client.login";
        let body = serde_json::json!({ "user": user, "password": password.expose_secret() });
        let answer = self.send(OP, self.request(Method::POST, &["api", "v1", "login"]).json(&body)).await?;
        let cookie = answer.headers().get_all(header::SET_COOKIE).iter().find_map(|value| {
            let (name, value) = value.to_str().ok()?.split(';').next()?.split_once('=')?;
            (name.trim() == COOKIE).then(|| SecretString::from(value.trim().to_owned()))
        });
        let cookie = cookie.ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "the server sent no login cookie").with_operation(OP)
        })?;
        let me: Me = wire::from_json(OP, &read_limited(OP, answer).await?)?;
        Ok(Login { me, client: self.with_credentials(Credentials::Login(cookie)) })
    }

    /// The URL of a route; each element is one path segment and is escaped.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.inner.base.clone();
        let path: Vec<String> =
            segments.iter().map(|s| utf8_percent_encode(s, SEGMENT).to_string()).collect();
        let path = format!("{}{}", url.path(), path.join("/"));
        url.set_path(&path);
        url
    }

    /// A request with credentials.
    pub(super) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let request = self.inner.http.request(method, self.url(segments));
        match &self.inner.credentials {
            Credentials::Anonymous => request,
            Credentials::Token(secret) => request.bearer_auth(secret.expose_secret()),
            // Cookies prove nothing about who wrote the request, so the server wants the origin too.
            Credentials::Login(cookie) => request
                .header(header::COOKIE, format!("{COOKIE}={}", cookie.expose_secret()))
                .header(header::ORIGIN, self.inner.base.origin().ascii_serialization()),
        }
    }

    /// Sends; any answer is fine.
    pub(super) async fn answer(&self, operation: &'static str, request: RequestBuilder) -> Result<Response> {
        let failed = |e| problem::transport(operation, e).with_context("server", self.base_url());
        let Some(link) = &self.inner.link else { return request.send().await.map_err(failed) };
        let request = request.build().map_err(failed)?;
        over(operation, link, request).await
    }

    /// Opens a WebSocket. The handshake goes through the HTTP client, so TLS, proxies and credentials are the same as
    /// for requests.
    pub(crate) async fn websocket(
        &self,
        operation: &'static str,
        segments: &[&str],
        query: &[(&'static str, String)],
        subprotocol: &'static str,
        config: WebSocketConfig,
    ) -> Result<WebSocketStream<Upgraded>> {
        let key = generate_key();
        let request = self
            .request(Method::GET, segments)
            .query(query)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .header(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        let answer = self.send(operation, request).await?;
        let accepted = answer
            .headers()
            .get(header::SEC_WEBSOCKET_ACCEPT)
            .is_some_and(|v| v.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
        if answer.status().as_u16() != 101 || !accepted {
            let refused = "the server or a proxy refused the WebSocket upgrade";
            return Err(Error::new(ErrorKind::Unexpected, refused)
                .with_operation(operation)
                .with_context("status", answer.status().as_u16()));
        }
        let io = answer.upgrade().await.map_err(|e| problem::transport(operation, e))?;
        Ok(WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await)
    }

    /// Sends; an answer that is not a success becomes an error.
    pub(super) async fn send(&self, operation: &'static str, request: RequestBuilder) -> Result<Response> {
        let answer = self.answer(operation, request).await?;
        let status = answer.status();
        if status.is_success() || status.as_u16() == 101 {
            return Ok(answer);
        }
        let body = read_limited(operation, answer).await.unwrap_or_default();
        Err(problem::error(operation, Some(status), &body))
    }

    /// Sends and parses the JSON of the answer.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        request: RequestBuilder,
    ) -> Result<T> {
        let answer = self.send(operation, request).await?;
        wire::from_json(operation, &read_limited(operation, answer).await?)
    }

    /// `GET` of JSON.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        segments: &[&str],
        query: &[(&'static str, String)],
    ) -> Result<T> {
        self.json(operation, self.request(Method::GET, segments).query(query)).await
    }

    /// `POST` of JSON, for an answer in JSON.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        segments: &[&str],
        body: &(impl Serialize + ?Sized),
    ) -> Result<T> {
        self.json(operation, self.request(Method::POST, segments).json(body)).await
    }

    /// A request whose answer has nothing to say.
    pub(super) async fn no_answer(&self, operation: &'static str, request: RequestBuilder) -> Result<()> {
        // Reading the (empty) body to its end lets the connection be used again.
        read_limited(operation, self.send(operation, request).await?).await.map(drop)
    }
}

/// Sends a request on a connection of its own.
async fn over(operation: &'static str, link: &LinkConnector, request: reqwest::Request) -> Result<Response> {
    let broke = |e: hyper::Error| {
        Error::new(ErrorKind::Unavailable, "the link to the agent broke")
            .with_operation(operation)
            .with_context("cause", &e)
            .with_retry(Retry::Temporary { after: None })
            .with_source(e)
    };
    let malformed =
        || Error::new(ErrorKind::InvalidInput, "the request is not valid").with_operation(operation);
    let mut request = hyper::Request::<reqwest::Body>::try_from(request)
        .map_err(|e| malformed().with_source(e.without_url()))?;
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    *request.uri_mut() = path.parse().map_err(|_| malformed())?;
    request.headers_mut().entry(header::HOST).or_insert(header::HeaderValue::from_static("localhost"));
    let io = TokioIo::new(link().await.map_err(|e| e.with_operation(operation))?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(broke)?;
    // Ends with the answer, or with the protocol it is upgraded to.
    tokio::spawn(connection.with_upgrades());
    let answer = sender.send_request(request).await.map_err(broke)?;
    Ok(Response::from(answer.map(reqwest::Body::wrap)))
}

/// The whole body, unless it is absurdly long.
async fn read_limited(operation: &'static str, mut answer: Response) -> Result<Bytes> {
    let mut body = bytes::BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| problem::transport(operation, e))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Error::new(ErrorKind::Unexpected, "the answer is too long")
                .with_operation(operation)
                .with_context("limit_bytes", ANSWER_BYTES_MAX));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_one_path_segment() {
        let client = Client::new("http://h:1/base", Credentials::Anonymous).unwrap();
        let url = client.url(&["api", "v1", "targets", "office-1/multipass/dev 1"]);
        assert_eq!(url.as_str(), "http://h:1/base/api/v1/targets/office-1%2Fmultipass%2Fdev%201");
        assert_eq!(client.base_url(), "http://h:1/base");
    }

    #[test]
    fn what_never_leaves_this_host() {
        let is = |url: &str| is_this_host(&Url::parse(url).unwrap());
        for url in ["http://localhost:1", "http://LocalHost.", "http://127.8.0.1", "http://[::1]:2"] {
            assert!(is(url), "{url}");
        }
        assert!(is("http://[::ffff:127.0.0.1]"));
        for url in ["http://localhost.example", "http://128.0.0.1", "http://[::2]", "http://nolocalhost"] {
            assert!(!is(url), "{url}");
        }
    }

    #[test]
    fn bad_addresses_are_refused_without_showing_a_password() {
        for bad in ["", "127.0.0.1:7070", "ftp://h", "http://", "http://u:geheim@h", "http://h/?q=1"] {
            let err = Client::new(bad, Credentials::Anonymous).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{bad}");
            assert_eq!(err.context_value("field"), Some("server"), "{bad}");
            assert!(!format!("{err:?}").contains("geheim"));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let client = Client::new("http://h", Credentials::token("fct_geheim")).unwrap();
        assert!(!format!("{client:?}").contains("geheim"));
    }
}
