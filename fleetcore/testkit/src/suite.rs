//! The cases, one module per trait.

pub mod exec;
pub mod files;
pub mod identity;
pub mod join;
pub mod machines;
pub mod metrics;
pub mod pty;
pub mod registry;
pub mod session;
pub mod store;
pub mod tunnel;

use std::sync::Arc;

use futures::future::BoxFuture;

/// One named case over an implementation of `T`, freshly made and empty.
pub struct Case<T: ?Sized> {
    /// What is promised.
    pub name: &'static str,
    /// Panics when the promise is broken.
    pub run: fn(Arc<T>) -> BoxFuture<'static, ()>,
}

impl<T: ?Sized> std::fmt::Debug for Case<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Collects functions as [`Case`]s under their own names.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::suite::Case { name: stringify!($name), run: |it| Box::pin($name(it)) }),*]
    };
}
pub(crate) use cases;
