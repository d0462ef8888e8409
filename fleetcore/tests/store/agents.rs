//! Joining and measurements across a restart.

use std::{path::Path, sync::Arc, time::Duration};

use fleetcore::{
    AgentId, HostSample, JoinCode, JoinStore, Labels,
    store::sqlite::{SqliteConfig, SqliteStore},
    telemetry::Recorder,
};
use jiff::{SignedDuration, Timestamp};
use libtest_mimic::Trial;

use crate::{block_on, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("files::measurements_are_one_history_across_restarts", measurements_are_one_history),
        trial("files::codes_and_tokens_outlive_the_server", codes_and_tokens_outlive_the_server),
    ]
}

fn open(dir: &Path) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(SqliteConfig::new(dir)).unwrap())
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).unwrap()
}

fn measurements_are_one_history() {
    let dir = tempfile::tempdir().unwrap();
    let mut sample = HostSample::default();
    // The same quarter of an hour, measured by three servers in turn.
    let at = ago(3 * 3600);
    for load in [1.0, 2.0, 6.0] {
        block_on(async {
            let recorder = Recorder::new(open(dir.path()));
            sample.load1 = load;
            recorder.record("office-1", at, &sample);
            recorder.record("office-1", ago(60), &sample);
            recorder.flush().await.unwrap();
        });
    }
    block_on(async {
        let recorder = Recorder::new(open(dir.path()));
        assert!(recorder.latest("office-1").is_none(), "what is stored says nothing about now");
        let step = Some(Duration::from_secs(900));
        let (_, points) = recorder.history("office-1", ago(4 * 3600), ago(0), step).await.unwrap();
        let old = points[0].bucket;
        assert_eq!((old.samples, old.min[3], old.avg[3], old.max[3]), (3, 1.0, 3.0, 6.0));
        let (step, fine) = recorder.history("office-1", ago(600), ago(0), None).await.unwrap();
        assert_eq!((step.as_secs(), fine.iter().map(|p| p.bucket.samples).sum::<u32>()), (10, 3));
        // What is too old goes, level by level: of three hours ago the seconds, not the minutes.
        assert_eq!(recorder.prune(ago(0)).await.unwrap(), 1);
        let (_, minutes) = recorder.history("office-1", ago(4 * 3600), ago(0), None).await.unwrap();
        assert_eq!(minutes[0].bucket, old);
    });
}

fn codes_and_tokens_outlive_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let id = |name: &str| AgentId::new(name).unwrap();
    block_on(async {
        let store = open(dir.path());
        for n in [1, 2] {
            let code = JoinCode::new([n; 32], Labels::new(), "admin", ago(0), ago(-60));
            store.insert_join_code(code).await.unwrap();
        }
        store.redeem_join_code(&[1; 32], &id("a"), [9; 32], ago(0)).await.unwrap();
    });
    block_on(async {
        let store = open(dir.path());
        assert_eq!(store.agent_token(&[9; 32]).await.unwrap().agent, id("a"));
        assert!(store.redeem_join_code(&[1; 32], &id("b"), [8; 32], ago(0)).await.is_err());
        store.redeem_join_code(&[2; 32], &id("b"), [8; 32], ago(0)).await.unwrap();
    });
}
