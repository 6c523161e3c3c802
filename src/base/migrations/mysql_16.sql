-- Since when the store has its version, is on record from here on.
INSERT IGNORE INTO #schema VALUES ('version 16', UNIX_TIMESTAMP());
