CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS open_batches ON batches (number)
    WHERE record ->> 'state' IN ('validating', 'in_progress', 'finalizing', 'cancelling');
CREATE TABLE IF NOT EXISTS direct_calls (
    process TEXT PRIMARY KEY, -- its caller waits at a connection
    kept_until INTEGER NOT NULL -- its answer; 0 without an idempotency key
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS webhooks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting_webhooks ON webhooks (record ->> 'subject') WHERE record ->> 'body' IS NULL;
CREATE INDEX IF NOT EXISTS due_webhooks ON webhooks (record ->> 'next_at') WHERE record ->> 'body' IS NOT NULL;
