-- Who may deploy to a project now, whether anybody may, and which requests were seen before.

-- A project's lease: the right of one deployment to run. It is here while somebody has it. Its fence is the
-- number of the commit that took it, so whoever comes later has a greater one, and what a holder that lost the
-- lease still wants to record is refused.
CREATE TABLE leases (
    project     TEXT NOT NULL PRIMARY KEY,
    deployment  TEXT NOT NULL,
    owner       TEXT NOT NULL,
    fence       BIGINT NOT NULL,
    acquired_at BIGINT NOT NULL,
    renewed_at  BIGINT NOT NULL
);

-- A project under a hold takes no deployments. It need not have been deployed yet.
CREATE TABLE holds (
    project    TEXT NOT NULL PRIMARY KEY,
    reason     TEXT NOT NULL,
    -- The id of the token that asked for it.
    token      TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- What a client calls a request that it may send again. Each token has keys of its own.
CREATE TABLE idempotency_keys (
    token      TEXT NOT NULL,
    project    TEXT NOT NULL,
    key        TEXT NOT NULL,
    deployment TEXT NOT NULL,
    -- The digest of the head; the package's is in the deployment's record.
    head       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (token, project, key)
);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);

UPDATE format SET version = 30 WHERE one = 1 AND version < 30;
