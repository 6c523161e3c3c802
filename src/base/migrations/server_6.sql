-- The file says whose it is, and since when it has its version.
PRAGMA application_id = 0x62777376;
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('version 6', unixepoch());
