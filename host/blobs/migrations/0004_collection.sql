-- What uploads and the collector tell one another (src/collect.rs).

-- The number of the last collection. Taking the next one is the first thing a collection does.
CREATE TABLE collection (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 0),
    round INTEGER NOT NULL
);

INSERT INTO collection (id, round) VALUES (0, 0);

-- The collection that was running, or had run last, when somebody last took a lease on the pack; set in the
-- transaction that takes it. A collection takes no pack away that has its own number or a later one: what was
-- leased since it began is not in what it marked.
ALTER TABLE pack ADD COLUMN round INTEGER NOT NULL DEFAULT 0;
