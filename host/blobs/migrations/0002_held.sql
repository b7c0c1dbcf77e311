-- What a namespace may lean on without sending it, and uploads that come in pieces.

CREATE TABLE namespace (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- A row for every chunk that complete blobs of a namespace have; `uses` counts how often their manifests name it.
-- Derived from `blob` and `manifest`, in the same commits (src/index/held.rs). Chunks of other namespaces are
-- elsewhere in the tree, so a look-up in one namespace never meets what another has.
CREATE TABLE held (
    namespace INTEGER NOT NULL,
    chunk BLOB NOT NULL,
    uses INTEGER NOT NULL,
    PRIMARY KEY (namespace, chunk)
) WITHOUT ROWID;

-- A blob that arrives in several requests. Its packs are leased until expires_at; the parts of its manifest are
-- in `manifest` as they are committed. Neither depends on the process that took them.
CREATE TABLE upload (
    id BLOB PRIMARY KEY NOT NULL,
    namespace TEXT NOT NULL,
    -- What whoever made it wants to remember of it.
    label TEXT NOT NULL,
    -- How many bytes it will have, once somebody has said so.
    length INTEGER,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- What the index names of it: so many bytes, in so many chunks.
    bytes INTEGER NOT NULL DEFAULT 0,
    stored_bytes INTEGER NOT NULL DEFAULT 0,
    chunks INTEGER NOT NULL DEFAULT 0,
    -- Bytes that were acknowledged and make no whole chunk yet, and where in the blob the first of them is.
    tail_at INTEGER NOT NULL DEFAULT 0,
    tail BLOB NOT NULL DEFAULT x'',
    -- 1: the blob is complete, and waits for somebody to take it.
    complete INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE INDEX upload_by_expiry ON upload (expires_at);
