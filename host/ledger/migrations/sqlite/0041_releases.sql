-- What became of releases: which were served when, which are kept, and how their services do.

-- Every move of a project's pointer. Releases may be gone by the time somebody reads this.
CREATE TABLE activations (
    number     BIGINT NOT NULL PRIMARY KEY,
    project    TEXT NOT NULL,
    at         BIGINT NOT NULL,
    -- What is served from then on, and what was before; absent for nothing.
    release    TEXT,
    previous   TEXT,
    cause      TEXT NOT NULL,
    token      TEXT,
    token_name TEXT,
    address    TEXT,
    body       TEXT NOT NULL
);
CREATE INDEX activations_by_project ON activations (project, number);

-- Deployments whose release and package no retention takes away.
CREATE TABLE pins (
    deployment TEXT NOT NULL PRIMARY KEY REFERENCES deployments (id),
    project    TEXT NOT NULL,
    at         BIGINT NOT NULL
);
CREATE INDEX pins_by_project ON pins (project);

-- The services that run, each with its role (green, active, blue) and its state.
CREATE TABLE services (
    project    TEXT NOT NULL,
    release    TEXT NOT NULL,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    state      TEXT NOT NULL,
    detail     TEXT,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (project, release, name)
);

UPDATE format SET version = 41 WHERE one = 1 AND version < 41;
