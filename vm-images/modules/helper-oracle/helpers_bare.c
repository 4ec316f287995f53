// SPDX-License-Identifier: GPL-2.0-only
#include "bare.h"
#include "helpers.c"
