//! How much one user may have going on at once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::error::Problem;

/// Counts something per user.
#[derive(Clone, Debug)]
pub(crate) struct Quotas {
    what: &'static str,
    limit: usize,
    held: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

impl Quotas {
    pub(crate) fn new(what: &'static str, limit: usize) -> Self {
        Self { what, limit, held: Arc::default() }
    }

    /// Takes one; dropping the permit gives it back.
    pub(crate) fn take(&self, actor: &Arc<str>) -> Result<Permit, Problem> {
        let mut held = self.held.lock();
        let count = held.entry(actor.clone()).or_default();
        if *count >= self.limit {
            return Err(Problem::quota(self.what, self.limit));
        }
        *count += 1;
        Ok(Permit { actor: actor.clone(), held: self.held.clone() })
    }
}

/// One of what is counted.
#[derive(Debug)]
pub(crate) struct Permit {
    actor: Arc<str>,
    held: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if let Some(count) = held.get_mut(&self.actor) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.actor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_use_up_what_another_may_have() {
        let quotas = Quotas::new("streams", 2);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = quotas.take(&a).unwrap();
        let _second = quotas.take(&a).unwrap();
        assert_eq!(quotas.take(&a).unwrap_err().code(), "rate_limited");
        let other = quotas.take(&b).unwrap();
        drop(first);
        let _third = quotas.take(&a).unwrap();
        drop(other);
        assert_eq!(quotas.held.lock().len(), 1);
    }
}
