// SPDX-License-Identifier: Apache-2.0
// No profiler listens here: ranges only count how deep they are, as NVTX does.
#pragma once

int nvtxRangePushA(const char* name);
int nvtxRangePop();
