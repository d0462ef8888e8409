//! What every [`JoinStore`] promises.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "cases fail by panicking")]

use std::sync::Arc;

use fleetcore::{AgentId, ErrorKind, JoinCode, JoinStore, Labels};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::{Case, cases};

/// All cases.
pub fn all() -> Vec<Case<dyn JoinStore>> {
    cases![
        a_code_works_once,
        wrong_and_expired_codes_are_refused_alike,
        of_many_with_one_code_one_gets_in,
        a_name_that_is_taken_costs_no_code,
        a_revoked_token_is_gone,
        banned_tokens_are_remembered,
        open_codes_are_bounded,
    ]
}

fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn code(hash: u8, seconds: i64) -> JoinCode {
    let now = Timestamp::now();
    let labels = Labels::from([("role".to_owned(), "web".to_owned())]);
    JoinCode::new(
        [hash; 32],
        labels,
        "admin",
        now,
        now.checked_add(SignedDuration::from_secs(seconds)).unwrap(),
    )
}

async fn a_code_works_once(store: Arc<dyn JoinStore>) {
    store.insert_join_code(code(1, 60)).await.unwrap();
    let now = Timestamp::now();
    let token = store.redeem_join_code(&[1; 32], &id("a"), [9; 32], now).await.unwrap();
    assert_eq!((token.agent.as_str(), token.invited_by.as_str()), ("a", "admin"));
    assert_eq!((token.labels["role"].as_str(), token.joined_at), ("web", now));
    let again = store.redeem_join_code(&[1; 32], &id("b"), [8; 32], now).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Unauthenticated);
    assert_eq!(store.agent_token(&[9; 32]).await.unwrap(), token);
    assert_eq!(store.agent_token_of(&id("a")).await.unwrap(), token);
    assert_eq!(store.agent_token_of(&id("b")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.agent_tokens().await.unwrap(), [token]);
    assert_eq!(store.agent_token(&[8; 32]).await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn wrong_and_expired_codes_are_refused_alike(store: Arc<dyn JoinStore>) {
    store.insert_join_code(code(1, 60)).await.unwrap();
    let wrong = store.redeem_join_code(&[2; 32], &id("a"), [9; 32], Timestamp::now()).await.unwrap_err();
    let later = Timestamp::now().checked_add(SignedDuration::from_secs(61)).unwrap();
    let late = store.redeem_join_code(&[1; 32], &id("a"), [9; 32], later).await.unwrap_err();
    assert_eq!((wrong.kind(), wrong.message()), (ErrorKind::Unauthenticated, late.message()));
    assert_eq!(late.kind(), ErrorKind::Unauthenticated);
    assert!(store.agent_tokens().await.unwrap().is_empty());
}

async fn of_many_with_one_code_one_gets_in(store: Arc<dyn JoinStore>) {
    store.insert_join_code(code(1, 60)).await.unwrap();
    let tries = (0..20_u8).map(|n| {
        let store = store.clone();
        async move {
            store.redeem_join_code(&[1; 32], &id(&format!("a{n}")), [n; 32], Timestamp::now()).await.is_ok()
        }
    });
    assert_eq!(join_all(tries).await.into_iter().filter(|ok| *ok).count(), 1);
    assert_eq!(store.agent_tokens().await.unwrap().len(), 1);
}

async fn a_name_that_is_taken_costs_no_code(store: Arc<dyn JoinStore>) {
    for n in [1, 2] {
        store.insert_join_code(code(n, 60)).await.unwrap();
    }
    let now = Timestamp::now();
    store.redeem_join_code(&[1; 32], &id("a"), [9; 32], now).await.unwrap();
    let taken = store.redeem_join_code(&[2; 32], &id("a"), [8; 32], now).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    assert_eq!(store.agent_token(&[9; 32]).await.unwrap().agent, id("a"), "the agent before keeps its token");
    store.redeem_join_code(&[2; 32], &id("b"), [8; 32], now).await.unwrap();
}

async fn a_revoked_token_is_gone(store: Arc<dyn JoinStore>) {
    for n in [1, 2] {
        store.insert_join_code(code(n, 60)).await.unwrap();
    }
    let now = Timestamp::now();
    store.redeem_join_code(&[1; 32], &id("a"), [9; 32], now).await.unwrap();
    store.remove_agent_token(&id("a")).await.unwrap();
    assert_eq!(store.agent_token(&[9; 32]).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.remove_agent_token(&id("a")).await.unwrap_err().kind(), ErrorKind::NotFound);
    // The name is free again, for a new code.
    store.redeem_join_code(&[2; 32], &id("a"), [7; 32], now).await.unwrap();
}

async fn banned_tokens_are_remembered(store: Arc<dyn JoinStore>) {
    assert!(store.banned_agent_tokens().await.unwrap().is_empty());
    store.ban_agent_tokens(vec![[1; 32], [2; 32]]).await.unwrap();
    store.ban_agent_tokens(vec![[2; 32], [3; 32]]).await.unwrap();
    let banned = store.banned_agent_tokens().await.unwrap();
    assert_eq!(banned, [[1; 32], [2; 32], [3; 32]].into());
}

async fn open_codes_are_bounded(store: Arc<dyn JoinStore>) {
    let numbered = |n: usize, seconds| {
        let mut code = code(0, seconds);
        code.code_sha256[..8].copy_from_slice(&n.to_le_bytes());
        code
    };
    for n in 0..JoinCode::MAX_OPEN {
        store.insert_join_code(numbered(n, 60)).await.unwrap();
    }
    let refused = store.insert_join_code(numbered(JoinCode::MAX_OPEN, 60)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::RateLimited);
    // Those that have expired make room.
    let mut later = numbered(JoinCode::MAX_OPEN, 120);
    later.created_at = later.created_at.checked_add(SignedDuration::from_secs(61)).unwrap();
    store.insert_join_code(later).await.unwrap();
    let first =
        store.redeem_join_code(&numbered(0, 0).code_sha256, &id("a"), [9; 32], Timestamp::now()).await;
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Unauthenticated);
}
