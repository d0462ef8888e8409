//! Extractors that say who calls, and refuse those who may not.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Method, header, request::Parts},
};
use fleetcore::{OpContext, Role, Scope};
use futures::future::BoxFuture;

use super::{COOKIE, Identity, Permit, Via, check_origin};
use crate::{app::App, error::Problem};

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct Actor(pub(crate) Arc<Identity>);

impl Actor {
    /// The name for records and the audit log.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// A context for calls on this user's behalf.
    pub(crate) fn context(&self) -> OpContext {
        OpContext::for_actor(self.0.name.clone())
    }

    /// Whether a scope is granted.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.0.scopes.contains(&scope)
    }

    /// 403 unless a scope is granted.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.may(scope) {
            return Ok(());
        }
        Err(Problem::forbidden("this needs a scope that is not granted").with_context("scope", scope))
    }

    /// Resolves when the login or token this request was made with is revoked or has expired.
    pub(crate) fn login_ended(&self) -> BoxFuture<'static, ()> {
        self.0.lease.ended()
    }

    /// What a stream holds while it is open; 429 when the user has too many open.
    pub(crate) fn stream(&self, app: &App) -> Result<StreamPass, Problem> {
        let permit = app.stream_quota().take(self.name())?;
        Ok(StreamPass { ended: self.login_ended(), _permit: permit })
    }

    pub(crate) fn scopes(&self) -> &BTreeSet<Scope> {
        &self.0.scopes
    }

    pub(crate) fn role(&self) -> Role {
        self.0.role
    }
}

/// One open stream of a user.
pub(crate) struct StreamPass {
    /// Resolves when the stream has to end because the login has; not to be polled afterwards.
    pub(crate) ended: BoxFuture<'static, ()>,
    _permit: Permit,
}

impl StreamPass {
    /// Resolves when the stream has to end; holds its place until dropped.
    #[cfg(feature = "openhands")]
    pub(crate) async fn over(self) {
        let Self { ended, _permit } = self;
        ended.await;
    }
}

/// Collects what the audit log will say about one request; handlers fill it in.
#[derive(Debug, Default)]
pub(crate) struct AuditSlot {
    actor: OnceLock<Arc<str>>,
    action: OnceLock<&'static str>,
    target: OnceLock<String>,
    detail: OnceLock<String>,
}

impl AuditSlot {
    pub(crate) fn set_actor(&self, actor: impl Into<Arc<str>>) {
        let _ = self.actor.set(actor.into());
    }
    /// What is done, to what. The first call counts.
    pub(crate) fn about(&self, action: &'static str, target: impl std::fmt::Display) {
        let _ = self.action.set(action);
        let _ = self.target.set(target.to_string());
    }
    pub(crate) fn detail(&self, detail: impl Into<String>) {
        let _ = self.detail.set(detail.into());
    }
    pub(crate) fn actor(&self) -> Option<&str> {
        self.actor.get().map(|a| &**a)
    }
    pub(crate) fn action(&self) -> Option<&'static str> {
        self.action.get().copied()
    }
    pub(crate) fn target(&self) -> Option<&str> {
        self.target.get().map(String::as_str)
    }
    pub(crate) fn detail_text(&self) -> Option<&str> {
        self.detail.get().map(String::as_str)
    }
}

async fn authenticate(parts: &Parts, app: &App) -> Result<Option<Actor>, Problem> {
    #[cfg(feature = "client")]
    if let Some(peer) = parts.extensions.get::<crate::link::LinkPeer>() {
        let actor = Actor(Identity::over_link(&peer.actor));
        if let Some(slot) = parts.extensions.get::<Arc<AuditSlot>>() {
            slot.set_actor(actor.name().clone());
        }
        return Ok(Some(actor));
    }
    let identity = if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        let token = bearer(value)
            .ok_or_else(|| Problem::unauthenticated("the Authorization header must be a bearer token"))?;
        app.tokens().identify(token, Via::Token).await?
    } else if let Some(secret) = cookie(&parts.headers) {
        let identity = app.tokens().identify(secret, Via::Login).await?;
        let upgrade = parts.headers.contains_key(header::UPGRADE);
        if upgrade || !matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            check_origin(&parts.headers, &parts.uri, &parts.extensions, app)?;
        }
        identity
    } else {
        return Ok(None);
    };
    if let Some(slot) = parts.extensions.get::<Arc<AuditSlot>>() {
        slot.set_actor(identity.name.clone());
    }
    Ok(Some(Actor(identity)))
}

/// The token of an `Authorization` header.
pub(crate) fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The secret of a login, in any of the `Cookie` headers.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let headers = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    headers.flat_map(|v| v.split(';')).find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE && !value.is_empty()).then_some(value)
    })
}

impl FromRequestParts<App> for Actor {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        authenticate(parts, app)
            .await?
            .ok_or_else(|| Problem::unauthenticated("log in, or send an API token"))
    }
}

/// Somebody, or nobody; bad credentials count as nobody.
#[derive(Clone, Debug)]
pub(crate) struct Optional(pub(crate) Option<Actor>);

impl FromRequestParts<App> for Optional {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Ok(Self(authenticate(parts, app).await.unwrap_or(None)))
    }
}

macro_rules! scoped {
    ($(#[$meta:meta])* $type:ident, $scope:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub(crate) struct $type(pub(crate) Actor);

        impl std::ops::Deref for $type {
            type Target = Actor;
            fn deref(&self) -> &Actor {
                &self.0
            }
        }

        impl FromRequestParts<App> for $type {
            type Rejection = Problem;
            async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
                let actor = Actor::from_request_parts(parts, app).await?;
                actor.require(Scope::$scope)?;
                Ok(Self(actor))
            }
        }
    };
}

scoped!(
    /// May look.
    CanRead, Read
);
scoped!(
    /// May run commands and sessions.
    CanRun, Run
);
scoped!(
    /// May read and write files.
    CanFiles, Files
);
scoped!(
    /// May make, change and delete machines, and manage agents.
    CanMachines, Machines
);
scoped!(
    /// May connect to addresses that targets can reach.
    CanTunnel, Tunnels
);
scoped!(
    /// May manage people and read the audit log.
    CanAdmin, Admin
);

/// Handlers say here what the audit log should say.
#[derive(Clone, Debug)]
pub(crate) struct Audit(pub(crate) Arc<AuditSlot>);

impl FromRequestParts<App> for Audit {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<Arc<AuditSlot>>().cloned().unwrap_or_default()))
    }
}

impl std::ops::Deref for Audit {
    type Target = AuditSlot;
    fn deref(&self) -> &AuditSlot {
        &self.0
    }
}
