-- Since when the store has its version, is on record from here on.
INSERT INTO meta VALUES ('version 18', unixepoch());
