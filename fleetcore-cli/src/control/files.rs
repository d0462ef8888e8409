//! Files of one target, in-process or on a server.

use fleetcore::{ByteStream, FileInfo, Files, Result, WriteOptions};
use fleetcore_http::client::{RemoteFiles, Tail};

/// One end of a copy.
pub(crate) enum FileEnd {
    Here(Files),
    Server(RemoteFiles),
}

impl FileEnd {
    pub(crate) async fn stat(&self, path: &str) -> Result<FileInfo> {
        match self {
            Self::Here(f) => f.stat(path).await,
            Self::Server(f) => f.stat(path).await,
        }
    }

    pub(crate) async fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        match self {
            Self::Here(f) => f.list(path).await,
            Self::Server(f) => f.list(path).await,
        }
    }

    pub(crate) async fn read(&self, path: &str) -> Result<ByteStream> {
        match self {
            Self::Here(f) => f.read_stream(path, 0, None).await,
            Self::Server(f) => f.read(path, Tail::default()).await,
        }
    }

    pub(crate) async fn write(
        &self,
        path: &str,
        options: WriteOptions,
        data: ByteStream,
    ) -> Result<FileInfo> {
        match self {
            Self::Here(f) => f.write_stream(path, options, data).await,
            Self::Server(f) => f.write(path, options, data).await,
        }
    }

    pub(crate) async fn create_dir(&self, path: &str) -> Result<()> {
        match self {
            Self::Here(f) => f.create_dir(path).await,
            Self::Server(f) => f.create_dir(path).await,
        }
    }

    pub(crate) async fn read_tar(&self, path: &str) -> Result<ByteStream> {
        match self {
            Self::Here(f) => f.read_tar(path).await,
            Self::Server(f) => f.read_tar(path).await,
        }
    }

    pub(crate) async fn write_tar(&self, path: &str, data: ByteStream) -> Result<u64> {
        match self {
            Self::Here(f) => f.write_tar(path, data).await,
            Self::Server(f) => f.write_tar(path, data).await,
        }
    }
}
