-- Who it is, and how many steps of its batches there were: the queue knows both.
INSERT INTO meta VALUES ('version 7', unixepoch()), ('server', lower(hex(randomblob(16))));
