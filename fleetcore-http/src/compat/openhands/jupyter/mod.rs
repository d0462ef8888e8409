//! IPython: the Jupyter protocol, spoken with a real ipykernel over sockets nobody else can reach.

mod cell;
mod kernel;
mod plugin;

pub(super) use plugin::Jupyter;
