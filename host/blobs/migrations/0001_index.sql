-- The chunk index: where every chunk lies, which blobs are whole, who holds what. Everything here but the
-- leases can be derived again from the packs (see src/pack.rs).

CREATE TABLE pack (
    id INTEGER PRIMARY KEY,
    -- The UUID in the pack's header and file name.
    name BLOB NOT NULL UNIQUE,
    bytes INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    -- 0: in use. 1: the collector is taking it away. 2: its file is gone. Nothing new leans on a pack that is
    -- not in use, and what it held is stored anew by the next upload that has it.
    state INTEGER NOT NULL DEFAULT 0
);

-- No foreign key to pack: deleting one pack would scan every chunk. Who deletes a pack reads its table.
CREATE TABLE chunk (
    id BLOB PRIMARY KEY NOT NULL,
    pack INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    encoding INTEGER NOT NULL,
    -- 1: was read and found wrong; never leaned on again, replaced by the next upload that carries it.
    quarantined INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- A row here means that the blob is whole and durable; there is no row for one that is still arriving.
CREATE TABLE blob (
    id BLOB PRIMARY KEY NOT NULL,
    namespace TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    chunks INTEGER NOT NULL,
    blake3 BLOB NOT NULL,
    sha256 BLOB NOT NULL,
    -- Name, version and parameters of what cut it, as JSON.
    chunker TEXT NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX blob_by_namespace ON blob (namespace, id);

-- The chunk lists, in parts, as they are in the packs (src/manifest.rs). Parts of a blob without a row in
-- `blob` belong to an upload that still runs, or that died.
CREATE TABLE manifest (
    blob BLOB NOT NULL,
    first_byte INTEGER NOT NULL,
    data BLOB NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (blob, first_byte)
);

-- While a row stands, the collector leaves the pack alone. expires_at NULL: as long as the process that
-- took it lives (cleared when the store is opened).
CREATE TABLE lease (
    pack INTEGER NOT NULL,
    holder BLOB NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (pack, holder)
) WITHOUT ROWID;

CREATE INDEX lease_by_holder ON lease (holder);
