-- Format 1.0. Times are nanoseconds since 1970 and only there to search by; bodies are the JSON of the types.

-- seq is the order of creation; ids are chosen by clients and say nothing about it.
CREATE TABLE commands (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         BLOB UNIQUE NOT NULL,
    target     TEXT NOT NULL,
    state      TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    ended_ns   INTEGER,
    revision   INTEGER NOT NULL,
    display    TEXT NOT NULL,
    body       TEXT NOT NULL
) STRICT;
-- Both cover what a page of ids needs, so records that do not pass are never read.
CREATE INDEX commands_by_target ON commands (target, state, seq);
CREATE INDEX commands_by_state ON commands (state, seq);
CREATE INDEX commands_by_end ON commands (ended_ns) WHERE ended_ns IS NOT NULL;

CREATE TABLE command_labels (
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    command BLOB NOT NULL REFERENCES commands (id) ON DELETE CASCADE,
    PRIMARY KEY (key, value, command)
) STRICT, WITHOUT ROWID;
CREATE INDEX command_labels_by_command ON command_labels (command);

CREATE TABLE agents (
    id         TEXT PRIMARY KEY NOT NULL,
    online     INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL,
    body       TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Outlives its agent: epochs never go back.
CREATE TABLE agent_epochs (
    agent TEXT PRIMARY KEY NOT NULL,
    epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    name          TEXT PRIMARY KEY NOT NULL,
    role          TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    disabled      INTEGER NOT NULL,
    created_ns    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id            TEXT PRIMARY KEY NOT NULL,
    kind          TEXT NOT NULL,
    name          TEXT NOT NULL,
    user          TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    secret_sha256 BLOB NOT NULL UNIQUE,
    scopes        TEXT NOT NULL,
    created_ns    INTEGER NOT NULL,
    expires_ns    INTEGER,
    last_used_ns  INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_user ON tokens (user);

CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ns   INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    target  TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail  TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE INDEX audit_by_action ON audit (action, seq);
