CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;
-- Since when the file has its version.
INSERT INTO meta VALUES ('version 7', unixepoch());
-- Who it is. `step ID` is the number of its steps with the queue that has this id, which knows both.
INSERT INTO meta VALUES ('server', lower(hex(randomblob(16))));
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
);
CREATE TABLE batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
);
CREATE INDEX open_batches ON batches (number)
    WHERE record ->> 'state' IN ('validating', 'in_progress', 'finalizing', 'cancelling');
CREATE TABLE direct_calls (
    process TEXT PRIMARY KEY, -- its caller waits at a connection
    kept_until INTEGER NOT NULL -- its answer; 0 without an idempotency key
) WITHOUT ROWID;
CREATE TABLE webhooks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
);
CREATE INDEX waiting_webhooks ON webhooks (record ->> 'subject') WHERE record ->> 'body' IS NULL;
CREATE INDEX due_webhooks ON webhooks (record ->> 'next_at') WHERE record ->> 'body' IS NOT NULL;
