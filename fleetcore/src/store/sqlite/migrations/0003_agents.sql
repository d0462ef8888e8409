-- Format 1.2: agents join with a code, and measurements of hosts are kept.

-- Only hashes: neither codes nor tokens can be read here.
CREATE TABLE join_codes (
    code_sha256 BLOB PRIMARY KEY NOT NULL,
    labels      TEXT NOT NULL,
    created_by  TEXT NOT NULL,
    created_ns  INTEGER NOT NULL,
    expires_ns  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE agent_tokens (
    agent        TEXT PRIMARY KEY NOT NULL,
    token_sha256 BLOB NOT NULL UNIQUE,
    labels       TEXT NOT NULL,
    invited_by   TEXT NOT NULL,
    joined_ns    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One bucket of one host: level is its length in seconds, start the second since 1970 at which it begins, body the
-- least, mean and most of each series (MetricBucket::to_bytes).
CREATE TABLE host_metrics (
    host  TEXT NOT NULL,
    level INTEGER NOT NULL,
    start INTEGER NOT NULL,
    body  BLOB NOT NULL,
    PRIMARY KEY (host, level, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX host_metrics_by_age ON host_metrics (level, start);
