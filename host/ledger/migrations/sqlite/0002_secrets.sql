-- Secrets: what a host may hand to the steps of a project, sealed by a key that is not in here.
--
-- A project may have secrets before its first deployment, so nothing here refers to its row.
CREATE TABLE secrets (
    project    TEXT NOT NULL,
    name       TEXT NOT NULL,
    -- Where SQLite says BLOB, others say BYTEA; the queries are the same.
    sealed     BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);

UPDATE format SET version = 2 WHERE one = 1;
