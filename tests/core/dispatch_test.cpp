// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch.h"

#include <gtest/gtest.h>

#include "core/arena.h"

namespace stipple {
namespace {

struct Plain {
  int* calls;
};
struct WithScratch {
  int* calls;
  Arena* scratch = nullptr;
};

namespace cpu {
void op(const Stream&, const Plain& args) { ++*args.calls; }
void op(const Stream& stream, const WithScratch& args) {
  const Arena::Scope scope(*args.scratch);
  args.scratch->alloc<float>({100});
  stream.parallel_for(1, [&](int64_t, int) { ++*args.calls; });
}
}  // namespace cpu
namespace cuda {
[[maybe_unused]] void op(const Stream&, const Plain& args) { ++*args.calls; }
[[maybe_unused]] void op(const Stream&, const WithScratch& args) {
  const Arena::Scope scope(*args.scratch);
  args.scratch->alloc<float>({1000});
}
}  // namespace cuda

void plain(const Stream& stream, const Plain& args) { STIPPLE_DISPATCH(stream, op, args); }
void with_scratch(const Stream& stream, const WithScratch& args) {
  STIPPLE_DISPATCH(stream, op, args);
}

TEST(Dispatch, OnMetaOnlyScratchIsTakenAndNothingIsDone) {
  const Stream meta(meta_device(DeviceType::kCpu));
  int calls = 0;
  plain(meta, {&calls});
  Arena planned("scratch");
  with_scratch(meta, {&calls, &planned});
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(planned.used(), 0u);

  const Stream cpu(kCpuDevice);
  plain(cpu, {&calls});
  Arena exact("scratch", kCpuDevice, planned.peak());
  with_scratch(cpu, {&calls, &exact});
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(exact.peak(), planned.peak());
}

TEST(Dispatch, APlanIsThatOfThePlannedDevice) {
  const Stream meta(meta_device(DeviceType::kCuda));
  int calls = 0;
  plain(meta, {&calls});
  Arena planned("scratch", meta.device());
#if STIPPLE_HAS_CUDA
  with_scratch(meta, {&calls, &planned});
  EXPECT_EQ(planned.peak(), 4096u);
#else
  EXPECT_THROW(with_scratch(meta, {&calls, &planned}), Error);
#endif
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace stipple
