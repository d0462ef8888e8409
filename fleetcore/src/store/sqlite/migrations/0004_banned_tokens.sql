-- Format 1.3: tokens of agents that are dead for good, whoever still has them in a file.
CREATE TABLE banned_agent_tokens (
    token_sha256 BLOB PRIMARY KEY NOT NULL
) STRICT, WITHOUT ROWID;
