#!/bin/sh
# Inside the machine: selftests.sh FOLDER SECONDS. Runs the kernel's selftests of FOLDER one after the other, each for at
# most SECONDS, and prints a line for each: how it ended (4: skipped by itself; 124, 137: cut), and its arguments. With
# names behind that only those are run, and what they say is printed, too.
#
# Not here: what poisons memory, wants another kernel module or another file system, or only helps other tests.
folder=$1
seconds=$2
shift 2
if [ $# -gt 0 ]; then exec 3>&2; else exec 3>/dev/null; fi

while read -r program arguments; do
	if [ $# -gt 0 ]; then
		case " $* " in
		*" ${program#*/} "*) ;;
		*) continue ;;
		esac
	fi
	case $program in
	# They want one and no other.
	mm/hugetlb_fault_after_madv | mm/hugetlb_madv_vs_map) echo 1 ;;
	*) echo 128 ;;
	esac >/proc/sys/vm/nr_hugepages
	cd "$folder/${program%/*}" || exit 1
	# shellcheck disable=SC2086 # a list of words
	timeout -k 5 "$seconds" "./${program#*/}" $arguments >&3 2>&1 </dev/null
	echo "exit $? $program $arguments"
done <<'LIST'
x86/test_shadow_stack_64
x86/amx_64
x86/check_initial_reg_state_64
x86/corrupt_xstate_header_64
x86/fsgsbase_64
x86/fsgsbase_restore_64
x86/ioperm_64
x86/iopl_64
x86/lam_64
x86/mov_ss_trap_64
x86/nx_stack_64
x86/sigaltstack_64
x86/sigreturn_64
x86/sigtrap_loop_64
x86/single_step_syscall_64
x86/syscall_arg_fault_64
x86/syscall_nt_64
x86/syscall_numbering_64
x86/sysret_rip_64
x86/sysret_ss_attrs_64
x86/test_mremap_vdso_64
x86/test_vsyscall_64
mm/cow
mm/droppable
mm/gup_longterm
mm/hugepage-mmap
mm/hugepage-mremap
mm/hugepage-shm
mm/hugepage-vmemmap
mm/hugetlb-madvise
mm/hugetlb_dio
mm/hugetlb_fault_after_madv
mm/hugetlb_madv_vs_map
mm/khugepaged
mm/ksm_functional_tests
mm/ksm_tests -M -p 10
mm/ksm_tests -U
mm/ksm_tests -Z -p 10 -z 0
mm/madv_populate
mm/map_fixed_noreplace
mm/map_hugetlb
mm/map_populate
mm/mdwe_test
mm/memfd_secret
mm/migration
mm/mkdirty
mm/mlock-random-test
mm/mlock2-tests
mm/mrelease_test
mm/mremap_dontunmap
mm/mremap_test
mm/mseal_test
mm/on-fault-limit
mm/pagemap_ioctl
mm/pkey_sighandler_tests_64
mm/protection_keys_64
mm/soft-dirty
mm/split_huge_page_test
mm/thuge-gen
mm/transhuge-stress -d 10
mm/uffd-stress anon 20 16
mm/uffd-stress hugetlb 32 16
mm/uffd-stress hugetlb-private 32 16
mm/uffd-stress shmem 20 16
mm/uffd-unit-tests
mm/va_high_addr_switch
LIST
