-- The audit log: who did what, when, from where.
--
-- Rows are only ever added, and the oldest removed when there are more than the ledger keeps. Nothing
-- refers to a project's row: what was done to a project is told after the project is gone.
CREATE TABLE audit (
    -- One more than the row before: a reader's place in the log.
    number     BIGINT NOT NULL PRIMARY KEY,
    at         BIGINT NOT NULL,
    -- The token; absent when the host itself acted.
    token      TEXT,
    token_name TEXT,
    address    TEXT,
    action     TEXT NOT NULL,
    project    TEXT,
    target     TEXT,
    detail     TEXT
);
CREATE INDEX audit_by_project ON audit (project, number);

UPDATE format SET version = 40 WHERE one = 1 AND version < 40;
