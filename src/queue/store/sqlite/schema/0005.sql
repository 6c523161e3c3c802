-- Where the time of a process went, in milliseconds: told from time_since to time_until, which are NULL while nothing
-- was told, and what took most of what was told last.
ALTER TABLE processes ADD COLUMN time_since INTEGER;
ALTER TABLE processes ADD COLUMN time_until INTEGER;
ALTER TABLE processes ADD COLUMN time_limited_by TEXT;
ALTER TABLE processes ADD COLUMN queued_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE processes ADD COLUMN quota_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE processes ADD COLUMN cooldown_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE processes ADD COLUMN backoff_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE processes ADD COLUMN provider_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE processes ADD COLUMN disk_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE processes ADD COLUMN source_ms INTEGER NOT NULL DEFAULT 0;
