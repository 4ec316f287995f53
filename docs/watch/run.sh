#!/bin/sh
# The runs of docs/watch.md: run.sh selftests|quick-selftests|redis|sqlite|forks|storm OPTIONS.., with options of
# `ptediff watch`. The quick selftests are those that suit Bochs: there a second of the machine's clock takes minutes.
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

quick="test_shadow_stack_64 check_initial_reg_state_64 corrupt_xstate_header_64 fsgsbase_64 fsgsbase_restore_64 iopl_64
mov_ss_trap_64 nx_stack_64 sigaltstack_64 sigreturn_64 sigtrap_loop_64 single_step_syscall_64 syscall_arg_fault_64
syscall_nt_64 syscall_numbering_64 sysret_rip_64 sysret_ss_attrs_64 test_mremap_vdso_64 test_vsyscall_64 cow droppable
hugepage-mmap hugepage-mremap hugepage-shm hugetlb-madvise hugetlb_dio hugetlb_madv_vs_map madv_populate
map_fixed_noreplace map_hugetlb map_populate mdwe_test memfd_secret mkdirty mlock-random-test mlock2-tests
mremap_dontunmap mremap_test mseal_test on-fault-limit pagemap_ioctl pkey_sighandler_tests_64 protection_keys_64
soft-dirty thuge-gen uffd-unit-tests"

what=$1
shift
if [ "$what" = quick-selftests ]; then
	what=selftests
	PROGRAMS=$quick
	SECONDS_EACH=${SECONDS_EACH:-0.4}
fi
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
