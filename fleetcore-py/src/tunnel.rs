//! A port of this host that leads to an address a machine can reach.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use ::fleetcore::{HostPort, Target, Tunnel as CoreTunnel};
use pyo3::prelude::*;

use crate::{op::Op, place::Place};

#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Tunnel {
    tunnel: Mutex<Option<CoreTunnel>>,
    local: SocketAddr,
}

impl Tunnel {
    pub(crate) fn open(place: Place, target: Target, bind: SocketAddr, to: HostPort) -> Op {
        let work = async move {
            let tunnel = place.machine(&target).await?.tunnel(bind, to).await?;
            Ok(Self { local: tunnel.local_addr(), tunnel: Mutex::new(Some(tunnel)) })
        };
        Op::new(work, |py, tunnel| Ok(Py::new(py, tunnel)?.into_any()))
    }
}

#[pymethods]
impl Tunnel {
    /// `(host, port)`.
    #[getter]
    fn address(&self) -> (String, u16) {
        (self.local.ip().to_string(), self.local.port())
    }

    fn close(&self) -> Op {
        let tunnel = self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
        Op::unit(async move {
            if let Some(tunnel) = tunnel {
                tunnel.close().await;
            }
            Ok(())
        })
    }
}
