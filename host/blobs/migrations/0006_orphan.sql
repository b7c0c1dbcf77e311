-- Packs that the index does not know, and when a collection first came upon them, in milliseconds since 1970. What a file
-- says of its own age is that of its bytes, and says nothing of how long the index has not known them.
CREATE TABLE orphan (
    name BLOB PRIMARY KEY NOT NULL,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;
