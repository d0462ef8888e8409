-- Format 1.1: records carry a digest of their whole request (`request` in the body), and the audit log is pruned by age.

-- SQLite seeds its generator from the system's.
CREATE TABLE store_keys (
    name TEXT PRIMARY KEY NOT NULL,
    key  BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO store_keys (name, key) VALUES ('request', randomblob(32));

CREATE INDEX audit_by_time ON audit (at_ns);
