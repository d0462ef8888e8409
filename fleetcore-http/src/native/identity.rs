//! Logins, users, tokens, audit.

use axum::{
    extract::{FromRequestParts, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use fleetcore::{AuditFilter, Error, ErrorKind, Role, TokenId, TokenKind, UserName, UserRecord};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    commands::page_len,
    wire::{
        AuditLine, ChangePassword, ChangeUser, CreateToken, CreateUser, Items, Login, LoginRequest, Me,
        NewToken, Page, Token, User, millis,
    },
};
use crate::{
    app::App,
    auth::{
        Actor, Audit, CanAdmin, Via, check_new_password, check_origin, clear_cookie, log_in, login_cookie,
        new_token,
    },
    error::{Problem, Reply},
    extract::{ClientIp, Json, NoQuery, Path, Query, StrangersJson},
};

/// Longest name of a token.
const TOKEN_NAME_MAX_CHARS: usize = 200;

/// A request without login; when a browser sends it, it must come from a page of this server.
#[derive(Debug)]
pub(super) struct SameOrigin;

impl FromRequestParts<App> for SameOrigin {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if parts.headers.contains_key(header::ORIGIN) {
            check_origin(&parts.headers, &parts.uri, &parts.extensions, app)?;
        }
        Ok(Self)
    }
}

/// Logs in with a password. The answer sets the cookie `fleetcore_login`.
#[utoipa::path(post, path = "/api/v1/login", tag = "identity", request_body = LoginRequest, security(()),
    responses((status = 200, description = "Logged in", body = Login,
        headers(("Set-Cookie" = String, description = "The login")))))]
pub(super) async fn login(
    _: SameOrigin,
    ClientIp(ip): ClientIp,
    audit: Audit,
    State(app): State<App>,
    StrangersJson(request): StrangersJson<LoginRequest>,
) -> Reply<Response> {
    // Before anything is said to the audit log: those who are slowed down must not fill it either.
    app.logins().check(ip)?;
    let user: String = request.user.chars().take(64).collect();
    audit.about("login", user.escape_debug());
    let (secret, identity) = log_in(&app, &request.user, &request.password).await?;
    audit.set_actor(identity.name.clone());
    let config = app.config();
    let cookie = login_cookie(&secret, config.login_ttl, config.secure_cookies());
    let body = Login {
        user: identity.user,
        role: identity.role,
        scopes: identity.scopes,
        expires_at: identity.expires_at,
    };
    Ok(with_cookie(Json(body), &cookie))
}

fn with_cookie(response: impl IntoResponse, cookie: &str) -> Response {
    let mut response = response.into_response();
    if let Ok(mut value) = HeaderValue::from_str(cookie) {
        value.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

/// Ends the login or token this request was made with.
#[utoipa::path(post, path = "/api/v1/logout", tag = "identity",
    responses((status = 204, description = "Logged out")))]
pub(super) async fn logout(actor: Actor, audit: Audit, State(app): State<App>) -> Reply<Response> {
    audit.about("logout", actor.name());
    revoke(&app, actor.0.token).await?;
    Ok(with_cookie(StatusCode::NO_CONTENT, &clear_cookie(app.config().secure_cookies())))
}

async fn revoke(app: &App, id: TokenId) -> Result<(), Error> {
    let removed = app.identities().remove_token(id).await;
    app.tokens().revoke(|l| l.token == id);
    removed
}

/// Ends logins of a user, except one.
async fn end_logins(app: &App, user: &UserName, keep: Option<TokenId>) -> Result<(), Error> {
    let removed = remove_logins(app, user, keep).await;
    // Also when that failed half way.
    app.tokens().revoke(|l| l.user == *user && l.via == Via::Login && Some(l.token) != keep);
    removed
}

async fn remove_logins(app: &App, user: &UserName, keep: Option<TokenId>) -> Result<(), Error> {
    for token in app.identities().tokens(Some(user)).await? {
        if token.kind == TokenKind::Login && Some(token.id) != keep {
            match app.identities().remove_token(token.id).await {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Who is asking.
#[utoipa::path(get, path = "/api/v1/me", tag = "identity",
    responses((status = 200, description = "You", body = Me)))]
pub(super) async fn me(actor: Actor, Query(NoQuery {}): Query<NoQuery>) -> Json<Me> {
    Json(Me {
        user: actor.0.user.clone(),
        role: actor.role(),
        scopes: actor.scopes().clone(),
        via: actor.0.via.as_str().to_owned(),
        expires_at: actor.0.expires_at,
    })
}

/// Changes one's own password and ends one's other logins.
#[utoipa::path(post, path = "/api/v1/me/password", tag = "identity", request_body = ChangePassword,
    responses((status = 204, description = "Changed")))]
pub(super) async fn change_password(
    actor: Actor,
    ClientIp(ip): ClientIp,
    audit: Audit,
    State(app): State<App>,
    Json(request): Json<ChangePassword>,
) -> Reply<StatusCode> {
    audit.about("user.password", actor.name());
    app.logins().check(ip)?;
    check_new_password("new", &request.new)?;
    let _one_at_a_time = app.users().lock().await;
    let mut user = app.identities().user(&actor.0.user).await?;
    if !app.passwords().verify(&request.old, Some(&user.password_hash)).await? {
        return Err(Problem::forbidden("the old password is not right").with_context("field", "old"));
    }
    user.password_hash = app.passwords().hash(&request.new).await?;
    app.identities().update_user(user).await?;
    let keep = (actor.0.via == Via::Login).then_some(actor.0.token);
    end_logins(&app, &actor.0.user, keep).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whose tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TokensQuery {
    /// Those of everybody; needs the scope `admin`.
    #[param(nullable = false)]
    all: Option<bool>,
}

/// API tokens, newest first.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "identity", params(TokensQuery),
    responses((status = 200, description = "All of them", body = Items<Token>)))]
pub(super) async fn list_tokens(
    actor: Actor,
    State(app): State<App>,
    Query(query): Query<TokensQuery>,
) -> Reply<Json<Items<Token>>> {
    let all = query.all == Some(true);
    if all {
        actor.require(fleetcore::Scope::Admin)?;
    }
    let tokens = app.identities().tokens((!all).then_some(&actor.0.user)).await?;
    let items = tokens.into_iter().filter(|t| t.kind == TokenKind::Api).map(Token::from).collect();
    Ok(Json(Items { items }))
}

/// Makes an API token. Its secret is shown only in this answer.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "identity", request_body = CreateToken,
    responses((status = 201, description = "Made", body = NewToken)))]
pub(super) async fn create_token(
    actor: Actor,
    audit: Audit,
    State(app): State<App>,
    Json(request): Json<CreateToken>,
) -> Reply<(StatusCode, Json<NewToken>)> {
    let name = request.name.trim();
    audit.about("token.create", name.chars().take(64).collect::<String>().escape_debug());
    if name.is_empty() || name.chars().count() > TOKEN_NAME_MAX_CHARS || name.chars().any(char::is_control) {
        return Err(Problem::invalid("name", "1 to 200 characters, none of them a control character"));
    }
    if request.scopes.is_empty() {
        return Err(Problem::invalid("scopes", "at least one scope"));
    }
    for scope in &request.scopes {
        actor.require(*scope)?;
    }
    let expires_at = match request.expires_in_s {
        None => None,
        Some(0) => return Err(Problem::invalid("expires_in_s", "at least 1")),
        Some(s) => {
            // Through `millis` for its upper bound, ten of them: tokens may live longer than waits.
            let tenth = millis("expires_in_s", s.saturating_mul(100))?;
            let lifetime = SignedDuration::try_from(tenth.saturating_mul(10))
                .map_err(|_| Problem::invalid("expires_in_s", "at most ten years"))?;
            Some(
                Timestamp::now()
                    .checked_add(lifetime)
                    .map_err(|_| Problem::invalid("expires_in_s", "at most ten years"))?,
            )
        }
    };
    // What was made by something that ends, ends with it.
    let expires_at = match (actor.0.via, expires_at, actor.0.expires_at) {
        (Via::Token, wanted, Some(own)) => Some(wanted.map_or(own, |w| w.min(own))),
        (_, wanted, _) => wanted,
    };
    let (secret, record) = new_token(TokenKind::Api, name, &actor.0.user, request.scopes, expires_at);
    app.identities().insert_token(record.clone()).await?;
    audit.detail(format!("id {}", record.id));
    let secret = secret.expose_secret().to_owned();
    Ok((StatusCode::CREATED, Json(NewToken { token: record.into(), secret })))
}

/// Removes a token: one's own, or anybody's with the scope `admin`.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "identity",
    params(("id" = String, Path, format = Uuid, description = "Its public id")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn remove_token(
    actor: Actor,
    audit: Audit,
    State(app): State<App>,
    Path(text): Path<String>,
) -> Reply<StatusCode> {
    let id: TokenId = text.parse()?;
    audit.about("token.remove", id);
    if !actor.may(fleetcore::Scope::Admin) {
        let own = app.identities().tokens(Some(&actor.0.user)).await?;
        if !own.iter().any(|t| t.id == id) {
            return Err(Problem::not_found("token", id));
        }
    }
    revoke(&app, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All users, by name.
#[utoipa::path(get, path = "/api/v1/users", tag = "identity",
    responses((status = 200, description = "All of them", body = Items<User>)))]
pub(super) async fn list_users(
    _: CanAdmin,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Items<User>>> {
    let items = app.identities().users().await?.into_iter().map(User::from).collect();
    Ok(Json(Items { items }))
}

/// Makes a user.
#[utoipa::path(post, path = "/api/v1/users", tag = "identity", request_body = CreateUser,
    responses((status = 201, description = "Made", body = User)))]
pub(super) async fn create_user(
    _: CanAdmin,
    audit: Audit,
    State(app): State<App>,
    Json(request): Json<CreateUser>,
) -> Reply<(StatusCode, Json<User>)> {
    let name = UserName::new(&request.name)?;
    audit.about("user.create", &name);
    check_new_password("password", &request.password)?;
    if app.identities().user(&name).await.is_ok() {
        return Err(Error::new(ErrorKind::AlreadyExists, "the name is taken")
            .with_context("user", name)
            .into());
    }
    let hash = app.passwords().hash(&request.password).await?;
    let user = UserRecord::new(name, request.role, hash, Timestamp::now());
    app.identities().insert_user(user.clone()).await?;
    audit.detail(format!("role {}", user.role));
    Ok((StatusCode::CREATED, Json(user.into())))
}

/// Whether an enabled admin other than `name` is there.
async fn other_admin(app: &App, name: &UserName) -> Result<bool, Error> {
    Ok(app
        .identities()
        .users()
        .await?
        .iter()
        .any(|u| u.name != *name && u.role == Role::Admin && !u.disabled))
}

fn last_admin() -> Error {
    Error::new(ErrorKind::InvalidState, "this is the last admin; somebody must be left to manage the server")
}

/// Changes a user.
#[utoipa::path(patch, path = "/api/v1/users/{name}", tag = "identity", request_body = ChangeUser,
    params(("name" = String, Path, description = "Login name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 200, description = "Changed", body = User)))]
pub(super) async fn change_user(
    _: CanAdmin,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(request): Json<ChangeUser>,
) -> Reply<Json<User>> {
    let name = UserName::new(name)?;
    audit.about("user.change", &name);
    if let Some(password) = &request.password {
        check_new_password("password", password)?;
    }
    let _one_at_a_time = app.users().lock().await;
    let mut user = app.identities().user(&name).await?;
    let was_admin = user.role == Role::Admin && !user.disabled;
    let old_role = user.role;
    user.role = request.role.unwrap_or(user.role);
    user.disabled = request.disabled.unwrap_or(user.disabled);
    let is_admin = user.role == Role::Admin && !user.disabled;
    if was_admin && !is_admin && !other_admin(&app, &name).await? {
        return Err(last_admin().into());
    }
    if let Some(password) = &request.password {
        user.password_hash = app.passwords().hash(password).await?;
    }
    let same_rights = user.role == old_role && !user.disabled;
    app.identities().update_user(user.clone()).await?;
    if !same_rights {
        // Streams were opened with the rights of before.
        app.tokens().revoke(|l| l.user == name);
        #[cfg(feature = "openhands")]
        app.runtimes().end_of(&name);
    }
    if request.password.is_some() || user.disabled {
        end_logins(&app, &name, None).await?;
    }
    audit.detail(format!(
        "role {}, disabled {}, password {}",
        user.role,
        user.disabled,
        request.password.is_some()
    ));
    Ok(Json(user.into()))
}

/// Removes a user and its tokens.
#[utoipa::path(delete, path = "/api/v1/users/{name}", tag = "identity",
    params(("name" = String, Path, description = "Login name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn remove_user(
    _: CanAdmin,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Reply<StatusCode> {
    let name = UserName::new(name)?;
    audit.about("user.remove", &name);
    let _one_at_a_time = app.users().lock().await;
    app.identities().user(&name).await?;
    if !other_admin(&app, &name).await? {
        return Err(last_admin().into());
    }
    app.identities().remove_user(&name).await?;
    app.tokens().revoke(|l| l.user == name);
    #[cfg(feature = "openhands")]
    app.runtimes().end_of(&name);
    Ok(StatusCode::NO_CONTENT)
}

/// Which entries.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Only by this actor.
    #[param(nullable = false)]
    actor: Option<String>,
    /// Only this action, or all that begin with it when it ends in a dot.
    #[param(nullable = false, example = "command.")]
    action: Option<String>,
    /// Only entries before this one: `next` of the page before.
    #[param(nullable = false)]
    before: Option<u64>,
    /// Length of the page, 1 to 1000. Default 100.
    #[param(nullable = false, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// The audit log, newest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "identity", params(AuditQuery),
    responses((status = 200, description = "One page", body = Page<AuditLine>)))]
pub(super) async fn read_audit(
    _: CanAdmin,
    State(app): State<App>,
    Query(query): Query<AuditQuery>,
) -> Reply<Json<Page<AuditLine>>> {
    let limit = page_len(query.limit)?;
    let mut filter = AuditFilter::default();
    filter.actor = query.actor;
    filter.action = query.action;
    filter.before = query.before;
    filter.limit = limit + 1;
    let mut entries = app.audit_store().read(filter).await?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|e| e.seq.to_string());
    Ok(Json(Page { items: entries.into_iter().map(AuditLine::from).collect(), next }))
}
