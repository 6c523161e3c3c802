-- The servers that use the queue, each with its last step, which its server.db has, too.
CREATE TABLE IF NOT EXISTS #servers (
  id VARCHAR(36) NOT NULL PRIMARY KEY,
  step BIGINT NOT NULL,
  place TEXT NOT NULL,
  run VARCHAR(36) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
INSERT IGNORE INTO #schema VALUES ('version 17', UNIX_TIMESTAMP());
