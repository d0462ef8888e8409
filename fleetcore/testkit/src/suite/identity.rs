//! What every [`IdentityStore`] and [`AuditStore`] promises.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "cases fail by panicking")]

use std::{collections::BTreeSet, sync::Arc};

use fleetcore::{
    AuditEntry, AuditFilter, AuditStore, ErrorKind, IdentityStore, Role, Scope, TokenId, TokenKind,
    TokenRecord, UserName, UserRecord,
};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};

use super::{Case, cases};

/// All cases about people and tokens.
pub fn all() -> Vec<Case<dyn IdentityStore>> {
    cases![
        users_are_kept_and_changed,
        a_user_name_is_taken_once,
        unknown_users_are_not_found,
        tokens_are_found_by_their_hash,
        a_token_needs_its_user_and_a_fresh_secret,
        tokens_are_listed_newest_first,
        tokens_go_with_their_user,
        expired_tokens_are_pruned,
    ]
}

/// All cases about the audit log.
pub fn audit() -> Vec<Case<dyn AuditStore>> {
    cases![the_log_is_in_order_and_pages, the_log_is_filtered, the_log_is_pruned_by_age_and_length]
}

fn user(name: &str) -> UserRecord {
    let hash = SecretString::from(format!("$argon2id$of-{name}"));
    UserRecord::new(UserName::new(name).unwrap(), Role::Operator, hash, Timestamp::now())
}

fn token(owner: &str, secret: u8) -> TokenRecord {
    let scopes = BTreeSet::from([Scope::Read, Scope::Files]);
    TokenRecord::new(
        TokenKind::Api,
        "ci ü",
        UserName::new(owner).unwrap(),
        [secret; 32],
        scopes,
        Timestamp::now(),
    )
}

fn same(a: &UserRecord, b: &UserRecord) {
    assert_eq!((&a.name, a.role, a.disabled, a.created_at), (&b.name, b.role, b.disabled, b.created_at));
    assert_eq!(a.password_hash.expose_secret(), b.password_hash.expose_secret());
}

async fn users_are_kept_and_changed(store: Arc<dyn IdentityStore>) {
    for name in ["zoe", "adam"] {
        store.insert_user(user(name)).await.unwrap();
    }
    let mut zoe = store.user(&UserName::new("zoe").unwrap()).await.unwrap();
    zoe.role = Role::Admin;
    zoe.disabled = true;
    zoe.password_hash = SecretString::from("$new".to_owned());
    store.update_user(zoe.clone()).await.unwrap();
    same(&store.user(&zoe.name).await.unwrap(), &zoe);
    let all = store.users().await.unwrap();
    assert_eq!(all.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), ["adam", "zoe"]);
    same(&all[1], &zoe);
    store.remove_user(&zoe.name).await.unwrap();
    assert_eq!(store.users().await.unwrap().len(), 1);
}

async fn a_user_name_is_taken_once(store: Arc<dyn IdentityStore>) {
    let first = user("zoe");
    store.insert_user(first.clone()).await.unwrap();
    let mut second = user("zoe");
    second.role = Role::Admin;
    assert_eq!(store.insert_user(second).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    same(&store.user(&first.name).await.unwrap(), &first);
}

async fn unknown_users_are_not_found(store: Arc<dyn IdentityStore>) {
    let nobody = user("nobody");
    assert_eq!(store.user(&nobody.name).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.remove_user(&nobody.name).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.update_user(nobody).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.users().await.unwrap().len(), 0);
}

async fn tokens_are_found_by_their_hash(store: Arc<dyn IdentityStore>) {
    store.insert_user(user("zoe")).await.unwrap();
    let t = token("zoe", 1).with_expires_at(Some(Timestamp::now() - SignedDuration::from_secs(1)));
    store.insert_token(t.clone()).await.unwrap();
    assert_eq!(store.token_by_hash(&[1; 32]).await.unwrap(), t, "also when it has expired");
    assert_eq!(store.token_by_hash(&[2; 32]).await.unwrap_err().kind(), ErrorKind::NotFound);
    let at = Timestamp::now();
    store.touch_token(t.id, at).await.unwrap();
    assert_eq!(store.token_by_hash(&[1; 32]).await.unwrap().last_used_at, Some(at));
    store.remove_token(t.id).await.unwrap();
    assert_eq!(store.token_by_hash(&[1; 32]).await.unwrap_err().kind(), ErrorKind::NotFound);
    let nowhere = TokenId::generate();
    assert_eq!(store.remove_token(nowhere).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.touch_token(nowhere, at).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn a_token_needs_its_user_and_a_fresh_secret(store: Arc<dyn IdentityStore>) {
    assert_eq!(store.insert_token(token("zoe", 1)).await.unwrap_err().kind(), ErrorKind::NotFound);
    store.insert_user(user("zoe")).await.unwrap();
    let t = token("zoe", 1);
    store.insert_token(t.clone()).await.unwrap();
    assert_eq!(store.insert_token(token("zoe", 1)).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let mut again = token("zoe", 2);
    again.id = t.id;
    assert_eq!(store.insert_token(again).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(store.tokens(None).await.unwrap(), [t]);
}

async fn tokens_are_listed_newest_first(store: Arc<dyn IdentityStore>) {
    let mut all = Vec::new();
    for name in ["adam", "zoe"] {
        store.insert_user(user(name)).await.unwrap();
    }
    for i in 0..6 {
        let mut t = token(if i % 2 == 0 { "adam" } else { "zoe" }, i);
        t.created_at += SignedDuration::from_secs(i64::from(i));
        store.insert_token(t.clone()).await.unwrap();
        all.insert(0, t);
    }
    assert_eq!(store.tokens(None).await.unwrap(), all);
    let zoe = UserName::new("zoe").unwrap();
    all.retain(|t| t.user == zoe);
    assert_eq!(store.tokens(Some(&zoe)).await.unwrap(), all);
}

async fn tokens_go_with_their_user(store: Arc<dyn IdentityStore>) {
    for (name, secret) in [("adam", 1), ("zoe", 2)] {
        store.insert_user(user(name)).await.unwrap();
        store.insert_token(token(name, secret)).await.unwrap();
    }
    store.update_user(user("zoe")).await.unwrap();
    assert_eq!(store.tokens(None).await.unwrap().len(), 2, "a change keeps them");
    store.remove_user(&UserName::new("zoe").unwrap()).await.unwrap();
    let left = store.tokens(None).await.unwrap();
    assert_eq!(left.iter().map(|t| t.user.as_str()).collect::<Vec<_>>(), ["adam"]);
}

async fn expired_tokens_are_pruned(store: Arc<dyn IdentityStore>) {
    store.insert_user(user("zoe")).await.unwrap();
    let now = Timestamp::now();
    let second = SignedDuration::from_secs(1);
    for (secret, expiry) in [(1, Some(now - second)), (2, Some(now + second)), (3, None)] {
        store.insert_token(token("zoe", secret).with_expires_at(expiry)).await.unwrap();
    }
    assert_eq!(store.prune_tokens(now).await.unwrap(), 1);
    assert_eq!(store.prune_tokens(now).await.unwrap(), 0);
    assert_eq!(store.token_by_hash(&[1; 32]).await.unwrap_err().kind(), ErrorKind::NotFound);
    store.token_by_hash(&[2; 32]).await.unwrap();
    store.token_by_hash(&[3; 32]).await.unwrap();
}

async fn the_log_is_in_order_and_pages(store: Arc<dyn AuditStore>) {
    for i in 0..250 {
        let entry = AuditEntry::new("zoe", "command.create", "local", "ok").with_detail(i.to_string());
        store.append(entry).await.unwrap();
    }
    let page = store.read(AuditFilter::default()).await.unwrap();
    assert_eq!(page.len(), 100, "100 is the default");
    let mut filter = AuditFilter::default();
    filter.limit = 80;
    let mut seen = Vec::new();
    loop {
        let page = store.read(filter.clone()).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.seq);
        seen.extend(page);
    }
    assert!(seen.windows(2).all(|w| w[0].seq > w[1].seq));
    let want: Vec<_> = (0..250).rev().map(|i| i.to_string()).collect();
    assert_eq!(seen.iter().map(|e| e.detail.as_str()).collect::<Vec<_>>(), want);
}

async fn the_log_is_filtered(store: Arc<dyn AuditStore>) {
    let entries = [
        ("zoe", "command.create"),
        ("adam", "command.signal"),
        ("zoe", "commander"),
        ("zoe", "command.signal"),
        ("adam", "login"),
    ];
    for (actor, action) in entries {
        store.append(AuditEntry::new(actor, action, "t", "not_found")).await.unwrap();
    }
    let ask = |actor: Option<&str>, action: Option<&str>| {
        let mut filter = AuditFilter::default();
        filter.actor = actor.map(str::to_owned);
        filter.action = action.map(str::to_owned);
        let store = Arc::clone(&store);
        async move {
            let got = store.read(filter).await.unwrap();
            got.into_iter().map(|e| (e.actor, e.action)).collect::<Vec<_>>()
        }
    };
    let pick = |rows: &[usize]| {
        rows.iter().map(|i| (entries[*i].0.to_owned(), entries[*i].1.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(ask(None, None).await, pick(&[4, 3, 2, 1, 0]));
    assert_eq!(ask(Some("zoe"), None).await, pick(&[3, 2, 0]));
    assert_eq!(ask(None, Some("command.")).await, pick(&[3, 1, 0]));
    assert_eq!(ask(None, Some("command.signal")).await, pick(&[3, 1]));
    assert_eq!(ask(Some("zoe"), Some("command.")).await, pick(&[3, 0]));
    assert_eq!(ask(None, Some("nothing")).await, pick(&[]));
}

async fn the_log_is_pruned_by_age_and_length(store: Arc<dyn AuditStore>) {
    let start = Timestamp::now();
    let day = jiff::SignedDuration::from_hours(24);
    for n in 0..6 {
        let mut entry = AuditEntry::new("ann", format!("deed.{n}"), "local", "ok");
        // Two of them are old.
        entry.at = if n < 2 { start - day * 2 } else { start };
        store.append(entry).await.unwrap();
    }
    let actions = async || {
        let all = store.read(AuditFilter::default()).await.unwrap();
        all.into_iter().map(|e| e.action).collect::<Vec<_>>()
    };
    assert_eq!(store.prune_audit(None, None).await.unwrap(), 0, "nothing asked, nothing removed");
    assert_eq!(store.prune_audit(Some(start - day), None).await.unwrap(), 2);
    assert_eq!(actions().await, ["deed.5", "deed.4", "deed.3", "deed.2"]);
    assert_eq!(store.prune_audit(Some(start - day), Some(4)).await.unwrap(), 0);
    assert_eq!(store.prune_audit(None, Some(3)).await.unwrap(), 1);
    assert_eq!(actions().await, ["deed.5", "deed.4", "deed.3"]);
    assert_eq!(store.prune_audit(None, Some(0)).await.unwrap(), 3);
    // Numbers are not given twice.
    store.append(AuditEntry::new("ann", "deed.6", "local", "ok")).await.unwrap();
    let last = store.read(AuditFilter::default()).await.unwrap();
    assert_eq!(last.iter().map(|e| e.seq).collect::<Vec<_>>(), [7]);
}
