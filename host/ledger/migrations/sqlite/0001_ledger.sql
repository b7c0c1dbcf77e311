-- The ledger's first format.
--
-- Identifiers are UUIDs as lower-case TEXT, so that their order is the order of time; times are
-- milliseconds since the epoch; truth values are 0 and 1. TEXT and BIGINT are all the types there are, so
-- that one set of queries serves more than one database.

-- "COFF": tells a ledger from any other SQLite file.
PRAGMA application_id = 1129268806;

-- The version of all of this. A host that knows only older ones must not touch it.
CREATE TABLE format (
    one     BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL
);
INSERT INTO format (one, version) VALUES (1, 1);

-- The number of the last commit. Every commit takes the next one inside its own transaction, so numbers
-- follow the order of commits and leave no gap.
CREATE TABLE head (
    one    BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    number BIGINT NOT NULL
);
INSERT INTO head (one, number) VALUES (1, 0);

-- The feed: which records each commit touched.
CREATE TABLE changes (
    number   BIGINT NOT NULL,
    position BIGINT NOT NULL,
    kind     TEXT NOT NULL,
    key      TEXT NOT NULL,
    PRIMARY KEY (number, position)
) WITHOUT ROWID;

CREATE TABLE projects (
    name       TEXT NOT NULL PRIMARY KEY,
    active     TEXT,
    created_at BIGINT NOT NULL,
    version    BIGINT NOT NULL,
    -- A project serves only a release of its own.
    FOREIGN KEY (active, name) REFERENCES releases (id, project)
);

CREATE TABLE deployments (
    id          TEXT NOT NULL PRIMARY KEY,
    project     TEXT NOT NULL REFERENCES projects (name),
    status      TEXT NOT NULL,
    version     BIGINT NOT NULL,
    finished    BIGINT NOT NULL CHECK (finished IN (0, 1)),
    created_at  BIGINT NOT NULL,
    finished_at BIGINT,
    body        TEXT NOT NULL,
    UNIQUE (id, project),
    CHECK ((finished = 1) = (finished_at IS NOT NULL))
);
CREATE INDEX deployments_by_project ON deployments (project, id);
CREATE INDEX deployments_by_status ON deployments (status, id);
CREATE INDEX deployments_by_project_and_status ON deployments (project, status, id);
CREATE INDEX deployments_unfinished ON deployments (id) WHERE finished = 0;

CREATE TABLE releases (
    id         TEXT NOT NULL PRIMARY KEY,
    project    TEXT NOT NULL,
    digest     TEXT NOT NULL,
    files      BIGINT NOT NULL,
    bytes      BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    body       TEXT NOT NULL,
    UNIQUE (id, project),
    -- A release is what a deployment of the same project left.
    FOREIGN KEY (id, project) REFERENCES deployments (id, project)
);
CREATE INDEX releases_by_project ON releases (project, id);

CREATE TABLE plugins (
    name       TEXT NOT NULL,
    version    TEXT NOT NULL,
    digest     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    body       TEXT NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE INDEX plugins_by_digest ON plugins (digest, created_at);

CREATE TABLE tokens (
    id         TEXT NOT NULL PRIMARY KEY,
    hash       TEXT NOT NULL UNIQUE,
    scopes     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);
