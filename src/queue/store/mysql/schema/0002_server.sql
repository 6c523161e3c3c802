-- The names are texts that differ in trailing blanks, too.
CREATE TABLE #settings (
  name VARBINARY(255) NOT NULL PRIMARY KEY,
  value LONGTEXT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- One row, which every change of a setting counts up. It begins with a time, so that tables that are made anew repeat
-- no number.
CREATE TABLE #settings_version (
  no INT NOT NULL PRIMARY KEY,
  number BIGINT NOT NULL
) ENGINE=InnoDB;

INSERT INTO #settings_version VALUES (1, CAST(FLOOR(UNIX_TIMESTAMP(NOW(6)) * 1000000) AS SIGNED));

-- Servers, each of which lives until its lease ends, by the clock of the database.
CREATE TABLE #owners (
  name VARBINARY(64) NOT NULL PRIMARY KEY,
  lease_until BIGINT NOT NULL
) ENGINE=InnoDB;

-- What one server at a time does for all of them.
CREATE TABLE #server_roles (
  name VARBINARY(64) NOT NULL PRIMARY KEY,
  owner VARBINARY(64) NOT NULL
) ENGINE=InnoDB;

-- The key is the SHA-256 of what was asked for and of the client's key; the request is NULL until all of it has come,
-- the answer until it was given.
CREATE TABLE #server_keys (
  `key` BINARY(32) NOT NULL PRIMARY KEY,
  request BINARY(32),
  process BINARY(16) NOT NULL,
  chosen INT NOT NULL,
  many INT NOT NULL,
  owner VARBINARY(64) NOT NULL,
  answer LONGTEXT,
  created_at BIGINT NOT NULL,
  KEY by_age (created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE #server_changes (
  no BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  at BIGINT NOT NULL,
  `key` VARBINARY(255) NOT NULL,
  `before` LONGTEXT,
  after LONGTEXT,
  source TEXT NOT NULL,
  KEY by_key (`key`, no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE #server_files (
  number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  id VARBINARY(64) NOT NULL,
  purpose VARBINARY(64) NOT NULL,
  filename TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT,
  deleted_at BIGINT,
  UNIQUE KEY by_id (id),
  KEY by_expiry (expires_at),
  KEY by_deletion (deleted_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- The bytes of a file, in pieces. The number of a piece is given once: of two servers that add to a file, one fails. The
-- owner is the server that an upload comes to, until all of it is there, and empty then.
CREATE TABLE #server_pieces (
  file VARBINARY(64) NOT NULL,
  seq BIGINT NOT NULL,
  owner VARBINARY(64) NOT NULL,
  bytes BIGINT NOT NULL,
  body LONGBLOB NOT NULL,
  PRIMARY KEY (file, seq),
  KEY by_owner (owner),
  KEY sizes (file, bytes)
) ENGINE=InnoDB;

CREATE TABLE #server_batches (
  number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  id VARBINARY(64) NOT NULL,
  state VARBINARY(32) NOT NULL,
  record LONGTEXT NOT NULL,
  UNIQUE KEY by_id (id),
  KEY by_state (state)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE #server_direct_calls (
  process VARBINARY(36) NOT NULL PRIMARY KEY,
  owner VARBINARY(64) NOT NULL
) ENGINE=InnoDB;

CREATE TABLE #server_webhooks (
  process VARBINARY(36) NOT NULL PRIMARY KEY,
  url TEXT NOT NULL,
  secret VARBINARY(255) NOT NULL,
  message VARBINARY(64) NOT NULL,
  body LONGTEXT,
  state VARBINARY(16) NOT NULL,
  attempts BIGINT NOT NULL,
  next_at BIGINT NOT NULL,
  error LONGTEXT,
  KEY by_state (state)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE #server_read_failures (
  process BINARY(16) NOT NULL,
  job BIGINT NOT NULL,
  id BINARY(16) NOT NULL,
  claim BIGINT NOT NULL,
  PRIMARY KEY (process, job)
) ENGINE=InnoDB;
