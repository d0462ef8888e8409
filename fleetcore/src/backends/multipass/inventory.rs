//! Which machines there are.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    MultipassConfig,
    client::{Call, Client},
    error::{Class, Failure},
    parse::{self, Item},
    shared::Shared,
};
use crate::MachineState;

/// How long a list waits for addresses that were never asked for: the daemon connects to every machine for them.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);

/// Lists, shared by all who ask.
#[derive(Debug)]
pub(super) struct Inventory {
    client: Arc<Client>,
    config: Arc<MultipassConfig>,
    states: Shared<Vec<Item>>,
    addresses: Arc<Shared<BTreeMap<String, Vec<IpAddr>>>>,
    details: Shared<BTreeMap<String, Value>>,
}

impl Inventory {
    pub(super) fn new(client: Arc<Client>, config: Arc<MultipassConfig>) -> Self {
        Self {
            client,
            config,
            states: Shared::default(),
            addresses: Arc::default(),
            details: Shared::default(),
        }
    }

    /// What was known is no longer true.
    pub(super) fn forget(&self) {
        self.states.forget();
        self.addresses.forget();
        self.details.forget();
    }

    /// All machines, or the last known ones when the daemon is busy: it answers nobody while it stops a machine, and
    /// one slow backend must not delay the list of all.
    pub(super) async fn items_soon(&self) -> Result<Vec<Item>, Failure> {
        match tokio::time::timeout(self.config.list_patience, self.states()).await {
            Ok(states) => drop(states?),
            Err(_) => match self.states.last() {
                Some(last) => return Ok(self.with_addresses(&last, self.addresses.last())),
                None => {
                    return Err(Failure::new(
                        Class::TooSlow,
                        "list",
                        "the daemon is busy; the question stands",
                    ));
                }
            },
        }
        self.items().await
    }

    fn with_addresses(&self, items: &[Item], known: Option<Arc<BTreeMap<String, Vec<IpAddr>>>>) -> Vec<Item> {
        let mut items = items.to_vec();
        for item in items.iter_mut().filter(|i| i.state() == MachineState::Running) {
            if let Some(addresses) = known.as_ref().and_then(|k| k.get(&item.name)) {
                item.addresses.clone_from(addresses);
            }
        }
        items
    }

    /// All machines, deleted ones too, with the addresses that are known.
    pub(super) async fn items(&self) -> Result<Vec<Item>, Failure> {
        let items = self.states().await?;
        if !items.iter().any(|i| i.state() == MachineState::Running) {
            return Ok((*items).clone());
        }
        let known = match self.addresses.last() {
            Some(known) => {
                if !self.addresses.is_fresh(self.config.addresses_fresh) {
                    let asking = self.ask_addresses();
                    tokio::spawn(asking);
                }
                Some(known)
            }
            None => {
                tokio::time::timeout(ADDRESS_PATIENCE, self.ask_addresses()).await.ok().and_then(Result::ok)
            }
        };
        Ok(self.with_addresses(&items, known))
    }

    /// All machines without their addresses.
    pub(super) async fn states(&self) -> Result<Arc<Vec<Item>>, Failure> {
        let (client, limit) = (Arc::clone(&self.client), self.config.read_limit);
        self.states
            .get(self.config.list_fresh, || async move {
                client.version().await?;
                parse::list(&client.ask(Call::new("list", limit).arg("--no-ipv4")).await?)
            })
            .await
    }

    /// The same, asked for after this call.
    pub(super) async fn states_now(&self) -> Result<Arc<Vec<Item>>, Failure> {
        self.states.forget();
        self.states().await
    }

    /// Addresses of running machines, asked for if they are old.
    pub(super) fn ask_addresses(
        &self,
    ) -> impl Future<Output = Result<Arc<BTreeMap<String, Vec<IpAddr>>>, Failure>> + Send + 'static {
        let (client, limit) = (Arc::clone(&self.client), self.config.read_limit);
        let (addresses, fresh) = (Arc::clone(&self.addresses), self.config.addresses_fresh);
        async move {
            let ask = || async move {
                let items = parse::list(&client.ask(Call::new("list", limit)).await?)?;
                Ok(items.into_iter().map(|i| (i.name, i.addresses)).collect())
            };
            addresses.get(fresh, ask).await
        }
    }

    /// Load, memory, disks and so on of all machines; `error` in place of what a machine does not answer.
    pub(super) async fn details(&self) -> Result<Arc<BTreeMap<String, Value>>, Failure> {
        let (client, limit) = (Arc::clone(&self.client), self.config.read_limit);
        let states = self.states().await?;
        self.details
            .get(self.config.list_fresh, || async move {
                let names: Vec<String> = states
                    .iter()
                    .filter(|i| i.state() != MachineState::Deleted)
                    .map(|i| i.name.clone())
                    .collect();
                if names.is_empty() {
                    return Ok(BTreeMap::new());
                }
                match ask_details(&client, limit, &names).await {
                    Ok(all) => Ok(all),
                    Err(failure) if names.len() == 1 => Err(failure),
                    // One machine that does not answer spoils the batch.
                    Err(_) => {
                        let mut all = BTreeMap::new();
                        for name in names {
                            match ask_details(&client, limit, std::slice::from_ref(&name)).await {
                                Ok(one) => all.extend(one),
                                Err(f) => drop(all.insert(name, serde_json::json!({ "error": f.text }))),
                            }
                        }
                        Ok(all)
                    }
                }
            })
            .await
    }
}

async fn ask_details(
    client: &Client,
    limit: Duration,
    names: &[String],
) -> Result<BTreeMap<String, Value>, Failure> {
    parse::info(&client.ask(Call::new("info", limit).args(names)).await?)
}
