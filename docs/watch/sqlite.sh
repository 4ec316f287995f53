#!/bin/sh
# Inside the machine: sqlite.sh ROUNDS. Four processes write one database in WAL mode, mapped into memory, by ROUNDS
# transactions each, and read it between them.
rounds=$1
database=/load.db

sqlite3 $database 'PRAGMA journal_mode = WAL;
CREATE TABLE entries (id INTEGER PRIMARY KEY, writer INTEGER, word TEXT);
CREATE INDEX by_word ON entries (word);'

write() {
	round=0
	while [ "$round" -lt "$rounds" ]; do
		sqlite3 -cmd '.timeout 600000' $database "PRAGMA mmap_size = 268435456;
BEGIN IMMEDIATE;
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
INSERT INTO entries (writer, word) SELECT $1, hex(randomblob(40)) FROM n;
UPDATE entries SET word = lower(word) WHERE writer = $1 AND id % 11 = 0;
DELETE FROM entries WHERE writer = $1 AND id % 13 = $round % 13;
COMMIT;
SELECT count(*), max(word) FROM entries;" >/dev/null || exit 1
		round=$((round + 1))
	done
}

for writer in 1 2 3 4; do write $writer & done
wait
sqlite3 $database 'PRAGMA wal_checkpoint(TRUNCATE); PRAGMA integrity_check; SELECT count(*) FROM entries;'
