-- The servers that use the queue, each with its last step, which its server.db has, too.
CREATE TABLE servers (
  id TEXT PRIMARY KEY,
  step INTEGER NOT NULL,
  place TEXT NOT NULL,
  run TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('version 19', unixepoch());
