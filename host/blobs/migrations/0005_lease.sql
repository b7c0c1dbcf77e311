-- A lease ends with its holder: with the process for a blob that arrives in one piece, with its row in `upload` for one
-- that comes in several. When that is, is nothing that a lease has to know.
ALTER TABLE lease DROP COLUMN expires_at;
