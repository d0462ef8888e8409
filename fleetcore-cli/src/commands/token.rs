//! `fleetcore token`

use fleetcore::Error;
use fleetcore_http::client::wire;
use secrecy::ExposeSecret as _;

use crate::{
    cli::{Output, Token},
    config::Settings,
    error::{Failure, Outcome, note, report},
    exit,
    render::{self, Cell, Row, Tone},
};

/// Manages API tokens of a server.
pub(crate) async fn token(verb: Token, settings: &Settings) -> Outcome {
    let client = settings.need_server()?;
    match verb {
        Token::Create { name, scopes, expires_in } => {
            let made = client.create_token(&name, &scopes, expires_in.map(|d| d.as_secs().max(1))).await?;
            // Stdout gets nothing but the secret, so that it can be stored: TOKEN=$(fleetcore token create ci)
            match settings.output {
                Output::Json => {
                    let mut json = serde_json::to_value(&made.token).unwrap_or_default();
                    if let Some(object) = json.as_object_mut() {
                        object.insert("secret".to_owned(), made.secret.expose_secret().into());
                    }
                    render::print(&format!("{json}\n"))?;
                }
                _ => {
                    render::print(&format!("{}\n", made.secret.expose_secret()))?;
                    note(settings.quiet, &format!("token {} is shown this once", made.token.id));
                }
            }
            Ok(exit::OK)
        }
        Token::Ls { all } => {
            let tokens = client.tokens(all).await?;
            render::list(&tokens, settings.output, settings.quiet)?;
            Ok(exit::OK)
        }
        Token::Rm { ids } => {
            let mut first = None;
            for id in ids {
                if let Err(e) = remove(&client, &id).await {
                    first
                        .get_or_insert(report(&Failure::Error(e.with_context("token", id)), settings.output));
                }
            }
            first.map_or(Ok(exit::OK), |code| Err(Failure::Code(code)))
        }
    }
}

async fn remove(client: &fleetcore_http::client::Client, id: &str) -> Result<(), Error> {
    let id: fleetcore::TokenId = id.parse()?;
    client.delete_token(&id.to_string()).await
}

impl Row for wire::Token {
    const HEAD: &'static [&'static str] =
        &["ID", "NAME", "USER", "SCOPES", "CREATED", "EXPIRES", "LAST USED"];

    fn cells(&self) -> Vec<Cell> {
        let expired = self.expires_at.is_some_and(|at| at <= jiff::Timestamp::now());
        let expires =
            Cell::toned(render::time(self.expires_at), if expired { Tone::Bad } else { Tone::Plain });
        vec![
            self.id.as_str().into(),
            self.name.as_str().into(),
            self.user.as_str().into(),
            scopes(self).into(),
            Cell::toned(render::ago(Some(self.created_at)), Tone::Dim),
            expires,
            Cell::toned(render::ago(self.last_used_at), Tone::Dim),
        ]
    }

    fn fields(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.name.clone(),
            self.user.clone(),
            scopes(self),
            render::time(Some(self.created_at)),
            render::time(self.expires_at),
            render::time(self.last_used_at),
        ]
    }

    fn key(&self) -> String {
        self.id.clone()
    }
}

fn scopes(token: &wire::Token) -> String {
    token.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
