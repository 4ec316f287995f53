// SPDX-License-Identifier: GPL-2.0-only
#include "bare.h"
#include "helper_oracle.c"
