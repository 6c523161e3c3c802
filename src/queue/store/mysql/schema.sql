-- Statements end with a semicolon at the end of a line. #name stands for a table: #jobs for the prefix itself, others
-- for the prefix, an underscore and the name. After a crash, or if several processes create them at once, each statement
-- passes over what exists.

CREATE TABLE IF NOT EXISTS #schema (
  name VARCHAR(32) NOT NULL PRIMARY KEY,
  value BIGINT NOT NULL
) ENGINE=InnoDB;

-- Since when the tables have their version.
INSERT IGNORE INTO #schema VALUES ('version 17', UNIX_TIMESTAMP());

CREATE TABLE IF NOT EXISTS #meta (
  name VARCHAR(32) NOT NULL PRIMARY KEY,
  value VARCHAR(64) NOT NULL
) ENGINE=InnoDB;

-- A salt in every job id, so that an id of another database is not taken for one of ours.
INSERT IGNORE INTO #meta VALUES ('salt', FLOOR(RAND() * 4096)), ('id', REPLACE(UUID(), '-', ''));

-- Their sum tells whether anybody has written. Many rows, so that writers do not wait for each other.
CREATE TABLE IF NOT EXISTS #versions (
  slot INT NOT NULL PRIMARY KEY,
  version BIGINT NOT NULL
) ENGINE=InnoDB;
INSERT IGNORE INTO #versions (slot, version)
  WITH RECURSIVE slots (slot) AS (SELECT 0 UNION ALL SELECT slot + 1 FROM slots WHERE slot < 63)
  SELECT slot, 0 FROM slots;

-- A process has a row as long as it has jobs. Its counters change in the transaction that changes its jobs.
CREATE TABLE IF NOT EXISTS #processes (
  no BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  id BINARY(16) NOT NULL,
  parent BIGINT,
  sealed BIGINT NOT NULL DEFAULT 0,        -- jobs numbered below may be claimed, or soon
  cancelled BIGINT NOT NULL DEFAULT 0,
  chore INT NOT NULL DEFAULT 0,            -- decided, and not carried out for all jobs yet
  total BIGINT NOT NULL DEFAULT 0,         -- also the number of the next job
  pending BIGINT NOT NULL DEFAULT 0,
  in_progress BIGINT NOT NULL DEFAULT 0,
  at_provider BIGINT NOT NULL DEFAULT 0,
  completed BIGINT NOT NULL DEFAULT 0,
  failed BIGINT NOT NULL DEFAULT 0,
  cancelled_jobs BIGINT NOT NULL DEFAULT 0,
  consumed BIGINT NOT NULL DEFAULT 0,
  input_tokens BIGINT NOT NULL DEFAULT 0,
  output_tokens BIGINT NOT NULL DEFAULT 0,
  cost_picos BIGINT NOT NULL DEFAULT 0,    -- known cost in 1e-12 US dollars
  unpriced BIGINT NOT NULL DEFAULT 0,      -- jobs of unknown cost
  created_at BIGINT NOT NULL,
  changed_at BIGINT NOT NULL,
  info LONGTEXT,
  -- The process of its oldest ancestor, whose budget limits this one; NULL if it has none but its own.
  root BIGINT,
  budget_limit BIGINT,                     -- in picodollars, as the others; NULL without a limit
  budget_used BIGINT NOT NULL DEFAULT 0,   -- spent by it and its descendants, and lost
  budget_held BIGINT NOT NULL DEFAULT 0,   -- the worst cases of their open batches
  budget_needed BIGINT NOT NULL DEFAULT 0, -- the worst case of a call that was refused
  budget_most BIGINT NOT NULL DEFAULT 0,   -- no call could cost more up to now
  -- Nothing of it starts.
  closed INT GENERATED ALWAYS AS
    (CASE WHEN budget_used + budget_held + budget_needed > budget_limit THEN 1 END) STORED,
  KEY by_closed (closed),
  KEY by_root (root),
  UNIQUE KEY by_id (id),
  KEY by_parent (parent),
  KEY by_chore (chore)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- The number is a hash of the others.
CREATE TABLE IF NOT EXISTS #lanes (
  no BIGINT NOT NULL PRIMARY KEY,
  kind LONGTEXT NOT NULL,
  name LONGTEXT,
  step INT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- A worker lives until its lease ends, by the clock of the database; 0 says that it has died. The quotas are the limits that
-- it uses, as numbers with spaces between; what limits it at the moment is a word.
CREATE TABLE IF NOT EXISTS #workers (
  no BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(36) NOT NULL,               -- not used on a server
  pid BIGINT NOT NULL,
  host VARCHAR(255) NOT NULL,
  lease_until BIGINT NOT NULL,
  quotas MEDIUMTEXT,
  limited_by VARCHAR(16)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Small rows: what is long is written once, to the tables below. The id is the number of the process times 2^32 plus
-- that of the job in it, so the jobs of a process are one range of keys.
CREATE TABLE IF NOT EXISTS #jobs (
  id BIGINT NOT NULL PRIMARY KEY,
  lane BIGINT NOT NULL,
  priority INT NOT NULL,
  status INT NOT NULL,
  visible_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  claim BIGINT NOT NULL DEFAULT 0,
  worker BIGINT,
  batch BIGINT,
  crashes INT NOT NULL DEFAULT 0,
  attempt INT NOT NULL DEFAULT 0,
  calls BIGINT NOT NULL DEFAULT 0,
  max_retries INT,
  lost INT NOT NULL DEFAULT 0,
  in_doubt INT NOT NULL DEFAULT 0,
  KEY to_claim (status, lane, priority, visible_at, id),
  KEY by_status (status, id),
  KEY by_worker (worker),
  KEY in_batch (batch, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS #payloads (
  job BIGINT NOT NULL PRIMARY KEY,
  item_id LONGTEXT,
  request_hash LONGTEXT,
  body LONGTEXT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS #results (
  job BIGINT NOT NULL PRIMARY KEY,
  error LONGTEXT,
  body LONGTEXT,
  history LONGTEXT                         -- of earlier attempts, also of a job that waits for its next one
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What was spent on calls. The rows stay when jobs and processes are gone.
CREATE TABLE IF NOT EXISTS #spent (
  day INT NOT NULL,                        -- since 1970, of UTC
  model VARCHAR(250) NOT NULL,             -- empty if unknown
  calls BIGINT NOT NULL,
  tokens BIGINT NOT NULL,                  -- input and output
  cost_picos BIGINT NOT NULL,              -- known cost in 1e-12 US dollars
  PRIMARY KEY (day, model)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- The servers that use the queue. Each has a server.db with its id and its last step, which follow.
CREATE TABLE IF NOT EXISTS #servers (
  id VARCHAR(36) NOT NULL PRIMARY KEY,
  step BIGINT NOT NULL,
  place TEXT NOT NULL,                     -- of its server.db, with its machine
  run VARCHAR(36) NOT NULL                 -- its last start
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- It has a row while the queue is paused.
CREATE TABLE IF NOT EXISTS #pauses (
  no BIGINT NOT NULL PRIMARY KEY
) ENGINE=InnoDB;

-- Requests whose jobs are inserted once: known for a day, also when their processes are gone.
CREATE TABLE IF NOT EXISTS #requests (
  process BINARY(16) NOT NULL PRIMARY KEY,
  request VARCHAR(255) NOT NULL,           -- its hash
  sent_at BIGINT NOT NULL,
  KEY by_time (sent_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- A row of work that was handed to a provider as one. It outlives its process, whose number is never given to another.
CREATE TABLE IF NOT EXISTS #batches (
  no BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  process BIGINT NOT NULL,
  lane BIGINT NOT NULL,
  worker BIGINT,
  record LONGTEXT NOT NULL,
  created_at BIGINT NOT NULL,
  held BIGINT NOT NULL DEFAULT 0,          -- what it may cost at most, in picodollars
  held_jobs BIGINT NOT NULL DEFAULT 0,     -- for so many jobs
  KEY by_worker (worker),
  KEY by_process (process)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

