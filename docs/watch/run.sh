#!/bin/sh
# The runs of docs/watch.md: run.sh selftests|redis|sqlite|forks|storm OPTIONS.., with options of `ptediff watch`.
#
# Wants `cargo build --release`; for selftests `cargo xtask setup --selftests 6.12`, for redis and sqlite Debian's
# packages redis-server and sqlite3, for storm gcc. SECONDS_EACH is what a selftest may take, PROGRAMS are the
# names of some of them, ROUNDS is how long the storm is, FORKS the number of forks, WRITES the size of the database.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tree=$(dirname "$(dirname "$here")")
ptediff=$tree/target/x86_64-unknown-linux-gnu/release/ptediff
selftests=${PTEDIFF_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ptediff}/selftests/6.12

# Turns commands of this machine into --file options: packed.
pack() {
	packed=
	for name; do
		packed="$packed --file $(command -v "$name")"
	done
}

what=$1
shift
case $what in
selftests)
	pack timeout
	# pthread_cancel loads the one, protection_keys reads the other.
	packed="$packed --file $(realpath "$(gcc -print-file-name=libgcc_s.so.1)") --file /etc/passwd"
	for program in "$selftests"/mm/* "$selftests"/x86/*_64; do
		case $program in
		*.sh | */config | */settings) ;;
		*) packed="$packed --file $program" ;;
		esac
	done
	# shellcheck disable=SC2086 # a list of words
	exec "$ptediff" watch "$@" $packed -- "$here/selftests.sh" "$selftests" "${SECONDS_EACH:-60}" ${PROGRAMS:-}
	;;
redis)
	pack redis-server redis-cli redis-benchmark sleep
	# shellcheck disable=SC2086
	exec "$ptediff" watch "$@" $packed -- "$here/redis.sh" "${WRITES:-20000}"
	;;
sqlite)
	pack sqlite3
	# shellcheck disable=SC2086
	exec "$ptediff" watch "$@" $packed -- "$here/sqlite.sh" "${WRITES:-20}"
	;;
forks)
	script="i=0; while [ \$i -lt ${FORKS:-10000} ]; do (exit 0); i=\$((i+1)); done"
	exec "$ptediff" watch "$@" -- dash -c "$script"
	;;
storm)
	folder=$(mktemp -d)
	gcc -O1 -static -pthread -o "$folder/fault_storm" "$tree/harness/cli/tests/support/fault_storm.c"
	status=0
	"$ptediff" watch "$@" -- "$folder/fault_storm" "${ROUNDS:-280}" || status=$?
	rm -r "$folder"
	exit $status
	;;
*)
	echo "run.sh: there is no run $what" >&2
	exit 1
	;;
esac
