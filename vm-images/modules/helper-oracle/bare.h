/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Before any other header: the kernel's headers as they are where shadow
 * stacks, soft-dirty and userfaultfd's write-protection are not configured.
 * The kernel under the module still has them; of what it gives to modules,
 * only the helpers of entries are used, which are inline.
 */
#undef CONFIG_X86_USER_SHADOW_STACK
#undef CONFIG_MEM_SOFT_DIRTY
#undef CONFIG_HAVE_ARCH_USERFAULTFD_WP
#define BARE
