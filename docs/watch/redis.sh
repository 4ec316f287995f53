#!/bin/sh
# Inside the machine: redis.sh KEYS. Fills Redis with KEYS keys, then saves five times in the background (each is a fork)
# while a benchmark goes on writing.
keys=$1
socket=/redis.socket

redis-server --port 0 --unixsocket $socket --save '' --dir / >/dev/null &
until redis-cli -s $socket ping >/dev/null 2>&1; do sleep 0.1; done
redis-benchmark -s $socket -q -t set -n "$keys" -r "$keys" -d 200 >/dev/null
redis-benchmark -s $socket -q -t set -n "$keys" -r "$keys" -d 200 -l >/dev/null &
writer=$!
saves=0
while [ $saves -lt 5 ]; do
	redis-cli -s $socket bgsave
	while :; do
		case $(redis-cli -s $socket info persistence) in
		*rdb_bgsave_in_progress:0*) break ;;
		esac
		sleep 0.1
	done
	saves=$((saves + 1))
done
kill $writer
redis-cli -s $socket info persistence | while IFS=: read -r name value; do
	case $name in
	rdb_saves | rdb_last_bgsave_status | rdb_last_cow_size) echo "$name $value" ;;
	esac
done
redis-cli -s $socket info commandstats | while read -r line; do
	case $line in
	cmdstat_set:*) echo "${line%%,*}" ;;
	esac
done
redis-cli -s $socket shutdown nosave
wait
