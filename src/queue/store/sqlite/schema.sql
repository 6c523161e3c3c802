CREATE TABLE meta (
  name TEXT PRIMARY KEY,
  value NOT NULL
) WITHOUT ROWID;

-- Part of every job id, so that an id of another database is not taken for one of ours.
INSERT INTO meta VALUES ('salt', random() & 4095);
-- Tells this database apart from every other one, also from one that takes its place.
INSERT INTO meta VALUES ('id', lower(hex(randomblob(16))));

-- Since when the file has its version.
INSERT INTO meta VALUES ('version 19', unixepoch());

-- A process has a row as long as it has jobs. Its counters change in the transaction that changes
-- its jobs.
CREATE TABLE processes (
  no INTEGER PRIMARY KEY AUTOINCREMENT,
  id BLOB NOT NULL UNIQUE,
  sealed INTEGER NOT NULL DEFAULT 0,       -- jobs numbered below may be claimed, or soon
  cancelled INTEGER NOT NULL DEFAULT 0,
  chore INTEGER NOT NULL DEFAULT 0,        -- decided, and not carried out for all jobs yet
  total INTEGER NOT NULL DEFAULT 0,        -- also the number of the next job
  pending INTEGER NOT NULL DEFAULT 0,
  in_progress INTEGER NOT NULL DEFAULT 0,
  at_provider INTEGER NOT NULL DEFAULT 0,
  completed INTEGER NOT NULL DEFAULT 0,
  failed INTEGER NOT NULL DEFAULT 0,
  cancelled_jobs INTEGER NOT NULL DEFAULT 0,
  consumed INTEGER NOT NULL DEFAULT 0,
  input_tokens INTEGER NOT NULL DEFAULT 0,
  output_tokens INTEGER NOT NULL DEFAULT 0,
  cost_picos INTEGER NOT NULL DEFAULT 0,   -- known cost in 1e-12 US dollars
  unpriced INTEGER NOT NULL DEFAULT 0,     -- jobs of unknown cost
  created_at INTEGER NOT NULL,
  changed_at INTEGER NOT NULL,
  info TEXT,                               -- for people, in JSON; nothing here depends on it
  -- The key of the job that waits for a process's jobs, its children; NULL for what a host has enqueued. Fixed by the
  -- first jobs: the info holds the same as ids, for people.
  parent INTEGER,
  -- The process of its oldest ancestor, whose budget limits this one; NULL if it has none but its own.
  root INTEGER,
  budget_limit INTEGER,                    -- in picodollars, as the others; NULL without a limit
  budget_used INTEGER NOT NULL DEFAULT 0,  -- spent by it and its descendants, and lost
  budget_held INTEGER NOT NULL DEFAULT 0,  -- the worst cases of their open batches
  budget_needed INTEGER NOT NULL DEFAULT 0, -- the worst case of a call that was refused
  budget_most INTEGER NOT NULL DEFAULT 0,  -- no call could cost more up to now
  -- Nothing of it starts.
  closed INTEGER GENERATED ALWAYS AS
    (CASE WHEN budget_used + budget_held + budget_needed > budget_limit THEN 1 END) VIRTUAL
);
CREATE INDEX processes_closed ON processes (closed) WHERE closed IS NOT NULL;
CREATE INDEX processes_by_root ON processes (root) WHERE root IS NOT NULL;
CREATE INDEX processes_with_chore ON processes (chore) WHERE chore <> 0;
CREATE INDEX processes_by_parent ON processes (parent) WHERE parent IS NOT NULL;

-- The number is a hash of the others.
CREATE TABLE lanes (
  no INTEGER PRIMARY KEY,
  kind TEXT NOT NULL,
  name TEXT,
  step INTEGER NOT NULL
);

CREATE TABLE workers (
  no INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,               -- of its lock file
  pid INTEGER NOT NULL,
  host TEXT NOT NULL,
  lease_until INTEGER NOT NULL,            -- always 0: the lock tells whether it lives
  quotas TEXT,                             -- not used on one machine
  limited_by TEXT                          -- what limits it at the moment
);

-- Small rows: what is long is written once, to the tables below. The id is the number of the process
-- times 2^32 plus that of the job in it, so the jobs of a process are one range of keys.
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY,
  lane INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  status INTEGER NOT NULL,  -- 0 pending, 1 held, 2 in progress, 3 at provider, 4 completed, 5 failed, 6 cancelled
  visible_at INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  claim INTEGER NOT NULL DEFAULT 0,
  worker INTEGER,
  crashes INTEGER NOT NULL DEFAULT 0,
  attempt INTEGER NOT NULL DEFAULT 0,
  calls INTEGER NOT NULL DEFAULT 0,
  max_retries INTEGER,
  lost INTEGER NOT NULL DEFAULT 0,
  in_doubt INTEGER NOT NULL DEFAULT 0,
  batch INTEGER                            -- of those at the provider
);
CREATE INDEX jobs_to_claim ON jobs (lane, priority, visible_at) WHERE status = 0;
CREATE INDEX jobs_by_worker ON jobs (worker) WHERE worker IS NOT NULL;
CREATE INDEX jobs_with_outcome ON jobs (id) WHERE status >= 4;
-- Few: found among a million others.
CREATE INDEX jobs_not_completed ON jobs (status, id) WHERE status >= 5;
CREATE INDEX jobs_in_batch ON jobs (batch, id) WHERE batch IS NOT NULL;

CREATE TABLE payloads (
  job INTEGER PRIMARY KEY,
  item_id TEXT,
  request_hash TEXT,
  body TEXT NOT NULL
);

CREATE TABLE results (
  job INTEGER PRIMARY KEY,
  error TEXT,
  body TEXT,
  history TEXT                             -- of earlier attempts, also of a job that waits for its next one
);

-- A batch at a provider. The program that wrote its record understands it; its
-- jobs name it. It outlives its process, whose number is never given to another.
CREATE TABLE batches (
  no INTEGER PRIMARY KEY AUTOINCREMENT,
  process INTEGER NOT NULL,
  lane INTEGER NOT NULL,
  worker INTEGER,                          -- whose it is; NULL when that one has gone
  record TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  held INTEGER NOT NULL DEFAULT 0,         -- what it may cost at most, in picodollars
  held_jobs INTEGER NOT NULL DEFAULT 0     -- for so many jobs
);
CREATE INDEX batches_by_worker ON batches (worker);
CREATE INDEX batches_by_process ON batches (process);

-- Requests whose jobs are inserted once: known for a day, also when their processes are gone.
CREATE TABLE requests (
  process BLOB PRIMARY KEY,
  request TEXT NOT NULL,                   -- its hash
  sent_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX requests_by_time ON requests (sent_at);

-- What was spent on calls. The rows stay when jobs and processes are gone.
CREATE TABLE spent (
  day INTEGER NOT NULL,                    -- since 1970, of UTC
  model TEXT NOT NULL,                     -- empty if unknown
  calls INTEGER NOT NULL,
  tokens INTEGER NOT NULL,                 -- input and output
  cost_picos INTEGER NOT NULL,             -- known cost in 1e-12 US dollars
  PRIMARY KEY (day, model)
) WITHOUT ROWID;

-- The servers that use the queue. Each has a server.db with its id and its last step, which follows; in a place that is empty
-- beside the queue. A run is one start of a server.
CREATE TABLE servers (
  id TEXT PRIMARY KEY,
  step INTEGER NOT NULL,
  place TEXT NOT NULL,
  run TEXT NOT NULL
) WITHOUT ROWID;

-- It has a row while the queue is paused.
CREATE TABLE pauses (
  no INTEGER PRIMARY KEY
);
