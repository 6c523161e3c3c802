-- The key of the job that waits for a process's jobs, its children; NULL for what a host has enqueued. Fixed by the first
-- jobs: the info holds the same as ids, for people.
ALTER TABLE processes ADD COLUMN parent INTEGER;
CREATE INDEX processes_by_parent ON processes (parent) WHERE parent IS NOT NULL;

-- Jobs that wait for others (status -1), by when they look again if nothing wakes them.
CREATE INDEX jobs_that_wait ON jobs (visible_at) WHERE status = -1;
