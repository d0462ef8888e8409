//! `fleetcore ls`

use fleetcore::{Error, FileKind};
use fleetcore_http::client::wire::File;

use crate::{
    cli::Ls,
    config::Settings,
    control,
    error::Outcome,
    exit,
    parse::FilePlace,
    render::{self, Cell, Row, Tone},
};

/// Lists a directory; a file lists itself.
pub(crate) async fn ls(args: Ls, settings: &Settings) -> Outcome {
    let FilePlace::There(target, path) = args.place else {
        return Err(Error::invalid("place", "TARGET:PATH, e.g. local:/tmp").into());
    };
    let control = control::open(settings).await?;
    let files = control.files(&target).await?;
    let info = files.stat(&path).await?;
    let entries = if info.kind == FileKind::Dir { files.list(&path).await? } else { vec![info] };
    let rows: Vec<File> = entries.iter().map(File::from).collect();
    render::list(&rows, settings.output, settings.quiet)?;
    Ok(exit::OK)
}

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Dir => "dir",
        FileKind::Symlink => "symlink",
        _ => "other",
    }
}

impl Row for File {
    const HEAD: &'static [&'static str] = &["KIND", "MODE", "SIZE", "MODIFIED", "NAME"];

    fn cells(&self) -> Vec<Cell> {
        let tone = match self.kind {
            FileKind::Dir => Tone::Busy,
            FileKind::Symlink => Tone::Good,
            _ => Tone::Plain,
        };
        vec![
            kind(self.kind).into(),
            self.mode.as_deref().unwrap_or("-").into(),
            render::bytes(self.size).into(),
            Cell::toned(render::ago(self.modified_at), Tone::Dim),
            Cell::toned(self.path.as_str(), tone),
        ]
    }

    fn fields(&self) -> Vec<String> {
        vec![
            kind(self.kind).to_owned(),
            self.mode.clone().unwrap_or_default(),
            self.size.to_string(),
            render::time(self.modified_at),
            self.path.clone(),
        ]
    }

    fn key(&self) -> String {
        self.path.clone()
    }
}
