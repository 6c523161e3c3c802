-- What people are told of a process, in JSON; nothing here depends on it.
ALTER TABLE processes ADD COLUMN info TEXT;
