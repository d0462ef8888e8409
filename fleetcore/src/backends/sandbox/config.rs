//! What can be set.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

/// Settings of the sandbox provider.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SandboxConfig {
    /// Where sandboxes are kept, one directory each.
    pub dir: PathBuf,
    /// Where unpacked root file systems are, one directory each; a sandbox names one as its image. Default: `images`
    /// beside `dir`.
    pub images: PathBuf,
    /// The `bwrap` program. Default: found through `PATH`.
    pub bwrap: PathBuf,
    /// Most sandboxes. Default 256.
    pub most: usize,
}

impl SandboxConfig {
    /// Sandboxes in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        let images = dir.with_file_name("images");
        Self { dir, images, bwrap: "bwrap".into(), most: 256 }
    }

    /// Sets where root file systems are.
    #[must_use]
    pub fn with_images(mut self, images: impl Into<PathBuf>) -> Self {
        self.images = images.into();
        self
    }

    /// Sets the `bwrap` program.
    #[must_use]
    pub fn with_bwrap(mut self, bwrap: impl Into<PathBuf>) -> Self {
        self.bwrap = bwrap.into();
        self
    }

    /// Where the program is: as configured, or found in the `PATH` of this process. The one of the environment it gets,
    /// which is empty, would be the system's default.
    pub(super) fn find_bwrap(&self) -> Option<PathBuf> {
        if self.bwrap.components().count() > 1 {
            return Some(self.bwrap.clone());
        }
        let runs =
            |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(&self.bwrap)).find(runs)
    }
}
