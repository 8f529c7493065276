/* SPDX-License-Identifier: Apache-2.0
 * Stands in for NCCL in a bundle, on machines without it. A single process never exchanges anything; what is called all the same
 * fails as NCCL fails. functions.inc lists the calls in use, those with text apart. */
static const char kWhy[] = "NCCL was not found on this machine; only one GPU can be used";
const char* ncclGetErrorString(int code) { return (void)code, kWhy; }
const char* ncclGetLastError(void* communicator) { return (void)communicator, kWhy; }

enum { kSystemError = 2 };
#define STAND_IN(name) \
  int name(void) { return kSystemError; }
#include "functions.inc"
