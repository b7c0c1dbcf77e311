-- Who is told of a project's ends, and what is still to be told.

CREATE TABLE webhooks (
    project    TEXT NOT NULL PRIMARY KEY,
    url        TEXT NOT NULL,
    -- The key of the signatures, sealed by one that is not in here.
    sealed     BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- Deliveries that nobody has taken yet. A row is written with what it tells of, and removed when it was
-- taken, or given up.
CREATE TABLE outbox (
    id         TEXT NOT NULL PRIMARY KEY,
    project    TEXT NOT NULL,
    body       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    attempts   BIGINT NOT NULL,
    next_at    BIGINT NOT NULL,
    error      TEXT
);
CREATE INDEX outbox_by_time ON outbox (next_at);
CREATE INDEX outbox_by_project ON outbox (project);

UPDATE format SET version = 42 WHERE one = 1 AND version < 42;
