//! `fleetcore login` and `logout`

use std::{io::IsTerminal as _, path::Path};

use fleetcore::{Error, ErrorKind, Result};
use fleetcore_http::client::Credentials;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    cli::{Login, Output},
    config::{Place, SavedToken, Settings},
    error::{Outcome, note},
    exit, parse, render,
};

/// Logs in, makes a token for this host, keeps it; the login itself is given up at once.
pub(crate) async fn login(args: Login, settings: &Settings) -> Outcome {
    let url = match (&args.url, settings.server_name()?, settings.place()) {
        (Some(url), _, _) => url.clone(),
        (None, Some(url), _) => url,
        (None, None, Ok(Place::Server(client))) => client.base_url().to_owned(),
        _ => {
            return Err(
                Error::invalid("url", "given, because no server is configured or running here").into()
            );
        }
    };
    let mut saved = settings.saved()?;
    let client = settings.client(&url, &saved)?.with_credentials(Credentials::Anonymous);
    client.info().await?;
    let password = password(args.password_file.as_deref(), &format!("Password of {}: ", args.user))?;
    let login = client.login(&args.user, &password).await?;
    let name = args.name.unwrap_or_else(|| format!("fleetcore on {}", host_name()));
    // What the role does not allow is left out, so a viewer gets a token that works.
    let scopes: Vec<_> = args.scopes.into_iter().filter(|s| login.me.scopes.contains(s)).collect();
    let made = login.client.create_token(&name, &scopes, args.expires_in.map(|d| d.as_secs().max(1))).await;
    let ended = login.client.logout().await;
    let made = made?;
    let key = client.base_url().to_owned();
    let token =
        SavedToken { user: login.me.user.clone(), token_id: made.token.id.clone(), token: made.secret };
    let old = saved.servers.insert(key.clone(), token.clone());
    saved.server = Some(key.clone());
    settings.save(&saved)?;
    if let Some(old) = old {
        // The old token may be revoked or expired already.
        let client = client.with_credentials(Credentials::Token(old.token.clone()));
        if let Err(e) = client.delete_token(&old.token_id).await {
            tracing::debug!(error = %e, "the old token was not revoked");
        }
    }
    if let Err(e) = ended {
        tracing::debug!(error = %e, "the login was not given up");
    }
    match settings.output {
        Output::Json => {
            let scopes: Vec<_> = made.token.scopes.iter().map(ToString::to_string).collect();
            let text = serde_json::json!({
                "server": key, "user": token.user, "token_id": token.token_id, "scopes": scopes,
                "expires_at": made.token.expires_at,
            });
            render::print(&format!("{text}\n"))?;
        }
        _ => note(settings.quiet, &format!("logged in to {key} as {}", token.user)),
    }
    Ok(exit::OK)
}

/// Revokes and forgets the token of the server in use.
pub(crate) async fn logout(settings: &Settings) -> Outcome {
    let mut saved = settings.saved()?;
    let url = settings.server_name()?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "not logged in to any server").with_operation("logout")
    })?;
    let key = settings.client(&url, &saved)?.base_url().to_owned();
    let Some(token) = saved.servers.remove(&key) else {
        return Err(Error::new(ErrorKind::NotFound, "no token is kept for this server")
            .with_context("server", key)
            .into());
    };
    let client = settings.client(&url, &saved)?.with_credentials(Credentials::Token(token.token.clone()));
    let revoked = client.delete_token(&token.token_id).await;
    // Forget it in any case: that is what was asked for.
    if saved.server.as_deref() == Some(&key) {
        saved.server = None;
    }
    settings.save(&saved)?;
    match revoked {
        Ok(()) => {}
        Err(e) if matches!(e.kind(), ErrorKind::Unauthenticated | ErrorKind::NotFound) => {}
        Err(e) => {
            return Err(Error::new(
                e.kind(),
                "the token is forgotten here, but the server did not revoke it",
            )
            .with_context("token", &token.token_id)
            .with_source(e)
            .into());
        }
    }
    note(settings.quiet, &format!("logged out of {key}"));
    Ok(exit::OK)
}

/// A password: from a file, from `-`, or typed without echo.
///
/// # Errors
/// `InvalidInput` when it is empty or there is no terminal to ask on.
pub(super) fn password(file: Option<&Path>, prompt: &str) -> Result<SecretString> {
    if let Some(path) = file {
        if path == Path::new("-") {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map_err(|e| Error::io("read the password", e))?;
            return parse::first_line(&line);
        }
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::io("read the password", e).with_context("path", path.display()))?;
        return parse::first_line(&text);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(ErrorKind::InvalidInput, "there is no terminal to ask for the password")
            .with_context("field", "password")
            .with_context("hint", "give --password-file FILE, or - for stdin"));
    }
    let typed = rpassword::prompt_password(prompt).map_err(|e| Error::io("ask for the password", e))?;
    parse::first_line(&typed)
}

/// A new password, typed twice when it is typed.
///
/// # Errors
/// As [`password`]; `InvalidInput` when both differ.
pub(super) fn new_password(file: Option<&Path>, user: &str) -> Result<SecretString> {
    let first = password(file, &format!("New password of {user}: "))?;
    if file.is_none() {
        let again = password(None, "Again: ")?;
        if again.expose_secret() != first.expose_secret() {
            return Err(Error::invalid("password", "the same both times"));
        }
    }
    Ok(first)
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
