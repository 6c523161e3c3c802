-- What a worker reports about itself, in JSON; nothing here depends on it.
ALTER TABLE workers ADD COLUMN status TEXT;
