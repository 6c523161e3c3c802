-- What people are told of a process, in JSON; nothing here depends on it.
ALTER TABLE processes ADD COLUMN info TEXT;

-- Tells this database apart from every other one, also from one that takes its place.
INSERT INTO meta VALUES ('id', lower(hex(randomblob(16))));
