-- A row of work that was handed to a provider as one. Its record is understood by whoever wrote it; its
-- jobs name it. It outlives its process, whose number is never given to another.
CREATE TABLE batches (
  no INTEGER PRIMARY KEY AUTOINCREMENT,
  process INTEGER NOT NULL,
  lane INTEGER NOT NULL,
  worker INTEGER,                          -- whose it is; NULL when that one has gone
  record TEXT NOT NULL,
  created_at INTEGER NOT NULL
);
CREATE INDEX batches_by_worker ON batches (worker);
CREATE INDEX batches_by_process ON batches (process);

ALTER TABLE jobs ADD COLUMN batch INTEGER; -- of those at the provider
CREATE INDEX jobs_in_batch ON jobs (batch, id) WHERE batch IS NOT NULL;
