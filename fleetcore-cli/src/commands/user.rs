//! `fleetcore user`

use fleetcore::Error;
use fleetcore_http::client::{Client, wire};

use super::login::new_password;
use crate::{
    cli::User,
    config::Settings,
    error::{Failure, Outcome, report},
    exit,
    render::{self, Cell, Row, Tone},
};

/// Manages users of a server; needs the `admin` scope.
pub(crate) async fn user(verb: User, settings: &Settings) -> Outcome {
    let client = settings.need_server()?;
    let print = |user: &wire::User| render::one(user, settings.output, settings.quiet);
    match verb {
        User::Add { name, role, password_file } => {
            let password = new_password(password_file.as_deref(), &name)?;
            print(&client.create_user(&name, role, &password).await?)?;
        }
        User::Ls => render::list(&client.users().await?, settings.output, settings.quiet)?,
        User::Rm { names } => return remove(&client, names, settings).await,
        User::Passwd { name, password_file } => {
            let password = Some(new_password(password_file.as_deref(), &name)?);
            print(&client.update_user(&name, &wire::UserChange { password, ..Default::default() }).await?)?;
        }
        User::Set { name, role, disable, enable } => {
            let disabled = (disable || enable).then_some(disable);
            if role.is_none() && disabled.is_none() {
                return Err(Error::invalid("change", "one of --role, --disable, --enable").into());
            }
            print(&client.update_user(&name, &wire::UserChange { role, disabled, password: None }).await?)?;
        }
    }
    Ok(exit::OK)
}

async fn remove(client: &Client, names: Vec<String>, settings: &Settings) -> Outcome {
    let mut first = None;
    for name in names {
        if let Err(e) = client.delete_user(&name).await {
            first.get_or_insert(report(&Failure::Error(e.with_context("user", name)), settings.output));
        }
    }
    first.map_or(Ok(exit::OK), |code| Err(Failure::Code(code)))
}

impl Row for wire::User {
    const HEAD: &'static [&'static str] = &["NAME", "ROLE", "STATE", "CREATED"];

    fn cells(&self) -> Vec<Cell> {
        let state = if self.disabled {
            Cell::toned("disabled", Tone::Bad)
        } else {
            Cell::toned("enabled", Tone::Good)
        };
        vec![
            self.name.as_str().into(),
            self.role.as_str().into(),
            state,
            Cell::toned(render::ago(Some(self.created_at)), Tone::Dim),
        ]
    }

    fn fields(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.role.to_string(),
            if self.disabled { "disabled" } else { "enabled" }.to_owned(),
            render::time(Some(self.created_at)),
        ]
    }

    fn key(&self) -> String {
        self.name.clone()
    }
}
