-- Tokens have names, so that a list and an audit say which one did something.
ALTER TABLE tokens ADD COLUMN name TEXT NOT NULL DEFAULT '';

UPDATE format SET version = 20 WHERE one = 1 AND version < 20;
