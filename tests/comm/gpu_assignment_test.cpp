// SPDX-License-Identifier: Apache-2.0
#include "comm/gpu_assignment.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "comm/threads/thread_group.h"
#include "core/cuda/runtime.h"
#include "core/error.h"

namespace stipple::comm {
namespace {

GpuView view(const std::string& host, int num_gpus, const std::string& bus_id) {
  return {.host = host,
          .num_gpus = num_gpus,
          .why_no_gpu = {},
          .name = "NVIDIA H200",
          .bus_id = bus_id,
          .compute_major = 9,
          .compute_minor = 0};
}

TEST(GpuAssignment, OneGpuPerRankIsFine) {
  const GpuView views[] = {view("n1", 2, "0000:01:00.0"), view("n1", 2, "0000:02:00.0"),
                           view("n2", 2, "0000:01:00.0"), view("n2", 2, "0000:02:00.0")};
  EXPECT_EQ(gpu_objection(views), "");
}

TEST(GpuAssignment, RanksThatSeeOnlyTheirOwnGpuAreFine) {
  EXPECT_EQ(gpu_index(3, 1), 0);
  const GpuView views[] = {view("n1", 1, "0000:01:00.0"), view("n1", 1, "0000:02:00.0")};
  EXPECT_EQ(gpu_objection(views), "");
}

TEST(GpuAssignment, MoreRanksThanGpusAreRefused) {
  const GpuView views[] = {view("n1", 2, "0000:01:00.0"), view("n1", 2, "0000:02:00.0"),
                           view("n1", 2, "0000:01:00.0")};
  EXPECT_EQ(gpu_objection(views),
            "ranks 0 and 2 on n1 would use the same GPU (0000:01:00.0): 3 ranks were started there "
            "and it has 2 GPUs; start at most 2 ranks per node");
}

TEST(GpuAssignment, TwoRanksOnOneGpuAreRefusedAlthoughThereAreEnough) {
  const GpuView views[] = {view("n1", 2, "0000:01:00.0"), view("n1", 1, "0000:01:00.0")};
  EXPECT_EQ(gpu_objection(views),
            "ranks 0 and 1 on n1 would use the same GPU (0000:01:00.0): it has 2 GPUs, but the "
            "ranks do not see the same ones; give all ranks the same CUDA_VISIBLE_DEVICES, or each "
            "its own GPU");
}

TEST(GpuAssignment, AnOldGpuIsRefused) {
  GpuView old = view("n1", 1, "0000:01:00.0");
  old.name = "Tesla T4";
  old.compute_major = 7;
  old.compute_minor = 5;
  const GpuView views[] = {old};
  EXPECT_EQ(gpu_objection(views),
            "a GPU of compute capability 8.0 or later is needed (A100, H100, B200...), "
            "Tesla T4 has 7.5");
}

TEST(GpuAssignment, ARankIsNamedOnlyWhereItDiffers) {
  GpuView none{.host = "n2", .why_no_gpu = "no driver", .name = {}, .bus_id = {}};
  const GpuView some[] = {view("n1", 1, "0000:01:00.0"), none};
  EXPECT_EQ(gpu_objection(some), "rank 1 (n2): there is no GPU to use: no driver");
  const GpuView all[] = {none, none};
  EXPECT_EQ(gpu_objection(all), "there is no GPU to use: no driver");
}

TEST(ChooseCudaDevice, GivesEveryRankItsOwnOrTheSameErrorToAll) {
  const int ranks = 3;
  const bool fits = cuda::device_count() >= ranks;
  run_ranks(ranks, [&](Communicator& c) {
    try {
      EXPECT_EQ(choose_cuda_device(c), c.rank());
      EXPECT_TRUE(fits);
    } catch (const ConfigError& e) {
      EXPECT_FALSE(fits) << e.what();
      EXPECT_TRUE(e.is_collective());
      const std::string text = e.what();
      EXPECT_EQ(c.all_gather(text), std::vector<std::string>(3, text));
      if (cuda::device_count() == 0) {
        EXPECT_NE(text.find("there is no GPU to use: "), std::string::npos) << text;
      }
    }
  });
}

}  // namespace
}  // namespace stipple::comm
