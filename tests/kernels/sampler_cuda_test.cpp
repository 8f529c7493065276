// SPDX-License-Identifier: Apache-2.0
// CUDA draws the CPU's graphs bit by bit wherever sums are formed in fp32, nearly so where they are
// not, and keeps them by key as well. The statistical suites of the CPU thereby hold for CUDA; small
// ones run on the device itself (sampler_cuda_law_test). Nothing to do on machines without CUDA.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cuda/sample/scratch.h"
#include "tests/support/device_graphs.h"

#if defined(STIPPLE_CUDA_EMULATED)
#include "cuda_on_cpu/host.h"
#endif

namespace stipple::test {
namespace {

constexpr SamplerKind kAllSamplers[] = {SamplerKind::kTiles, SamplerKind::kRows,
                                        SamplerKind::kAuto};

bool has_cuda() { return test_devices().size() > 1; }
Device cuda_under_test() { return test_devices().back(); }

class SamplerOnCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_cuda()) GTEST_SKIP() << "no CUDA device";
  }
};

struct CaseOptions {
  bool has_masks = false;
  float delta = 0.0f;
  int64_t window_radius = -1;
};

// Two samples of two heads, from sparse to dense, with some rows too dense to be thinned.
SbmCase varied_case(int64_t n, int64_t m, int64_t k, const CaseOptions& options) {
  SbmCase c{.batch = 2,
            .heads = 2,
            .n = n,
            .m = m,
            .k = k,
            .delta = options.delta,
            .window_radius = options.window_radius};
  for (int64_t p = 0; p < 4; ++p) {
    for (int64_t i = 0; i < n; ++i) {
      const double scale = i % 11 == 7 ? 2.5 : p % 2 == 0 ? 0.15 : 0.9;
      for (int64_t v = 0; v < k; ++v) {
        c.mu.push_back(
            static_cast<float>(scatter(p * n + i, v, 21) * scale / static_cast<double>(k)));
      }
    }
    for (int64_t j = 0; j < m; ++j) {
      for (int64_t v = 0; v < k; ++v) {
        c.z.push_back(j % 7 == v % 7 ? 0.0f : static_cast<float>(scatter(p * m + j, v, 22)));
      }
    }
  }
  for (int64_t b = 0; b < 2 && options.has_masks; ++b) {
    for (int64_t i = 0; i < n; ++i) c.query_mask.push_back(scatter(b, i, 23) < 0.8 ? 1 : 0);
    for (int64_t j = 0; j < m; ++j) c.key_mask.push_back(scatter(b, j, 24) < 0.8 ? 1 : 0);
  }
  return c;
}

std::string name_of(const SbmCase& c, SamplerKind sampler) {
  return std::string(law_name(c.law)) + ", sampler " + std::to_string(static_cast<int>(sampler)) +
         ", " + std::to_string(c.n) + " x " + std::to_string(c.m) + " x " + std::to_string(c.k) +
         (c.key_mask.empty() ? "" : ", masks") +
         (c.window_radius < 0 ? "" : ", window " + std::to_string(c.window_radius)) + ", delta " +
         std::to_string(c.delta);
}

void expect_same_graph(const HostGraph& actual, const HostGraph& expected) {
  const EdgeSet& a = actual.edges();
  const EdgeSet& e = expected.edges();
  for (int64_t p = 0; p < e.num_problems(); ++p) {
    ASSERT_EQ(a.form[p], e.form[p]) << p;
    ASSERT_EQ(actual.dense(p).values(), expected.dense(p).values()) << p;
    for (int64_t i = 0; i <= e.num_queries; ++i) {
      ASSERT_EQ(a.row_ptr.at(p)[i], e.row_ptr.at(p)[i]) << p << " " << i;
    }
    for (int64_t x = 0; e.capacity.multiplicity && x < e.num_edges(p); ++x) {
      ASSERT_EQ(a.multiplicity.at(p)[x], e.multiplicity.at(p)[x]) << p << " " << x;
    }
  }
}

void expect_the_cpus_graph(const SbmCase& c, const DrawName& name, const DrawOptions& options) {
  const HostGraph expected = draw_graph(kCpuDevice, c, name, options);
  const HostGraph actual = draw_graph(cuda_under_test(), c, name, options);
  EXPECT_EQ(graph_defect(actual.edges()), "");
  EXPECT_EQ(actual.edges().overflow[0], 0);
  expect_same_graph(actual, expected);
}

TEST_F(SamplerOnCuda, DrawsTheCpusGraphsBitByBit) {
  constexpr int64_t kRadii[] = {-1, 0, 5, 64};
  int number = 0;
  for (const auto& [n, k] :
       {std::pair{1, 1}, {1, 128}, {37, 1}, {37, 10}, {37, 128}, {130, 10}, {130, 128}, {300, 3}}) {
    for (MaskLaw law : kAllLaws) {
      for (SamplerKind sampler : kAllSamplers) {
        ++number;
        SbmCase c = varied_case(n, n, k,
                                {.has_masks = number % 2 == 0,
                                 .delta = number / 2 % 2 == 0 ? 0.0f : 0.01f,
                                 .window_radius = kRadii[number / 4 % 4]});
        c.law = law;
        SCOPED_TRACE(name_of(c, sampler));
        expect_the_cpus_graph(c, {.step = 3, .layer = 1, .first_head = 2, .first_sample = 40},
                              draw_options(sampler, law));
      }
    }
  }
}

TEST_F(SamplerOnCuda, DrawsTheCpusGraphsUnderEveryOption) {
  for (bool has_masks : {false, true}) {
    for (float delta : {0.0f, 0.01f}) {
      for (int64_t window_radius : {-1, 0, 2, 100}) {
        for (MaskLaw law : kAllLaws) {
          for (SamplerKind sampler : kAllSamplers) {
            SbmCase c = varied_case(37, 37, 10, {has_masks, delta, window_radius});
            c.law = law;
            SCOPED_TRACE(name_of(c, sampler));
            expect_the_cpus_graph(c, {.step = 5}, draw_options(sampler, law));
          }
        }
      }
    }
  }
}

TEST_F(SamplerOnCuda, DrawsTheCpusGraphsOfOtherShapes) {
  // Several groups of 1,024 keys and several levels of search; more queries than keys; many
  // clusters.
  for (const auto& [n, m, k] : {std::tuple{5, 2100, 9}, {300, 37, 3}, {20, 130, 300}}) {
    for (MaskLaw law : kAllLaws) {
      for (SamplerKind sampler : kAllSamplers) {
        SbmCase c = varied_case(n, m, k, {.has_masks = true, .delta = 0.003f});
        c.law = law;
        SCOPED_TRACE(name_of(c, sampler));
        expect_the_cpus_graph(c, {.step = 1}, draw_options(sampler, law));
      }
    }
  }
}

TEST_F(SamplerOnCuda, DrawsRowsOfMoreKeysThanSharedMemoryHolds) {
  constexpr int64_t kKeys = 530000;
  SbmCase c{.n = 3, .m = kKeys, .k = 1, .mu = {5e-5f, 1e-6f, 2e-4f}};
  c.z.assign(kKeys, 1.0f);
  c.z[77] = 0.0f;
  const DrawOptions options{.sampler = SamplerKind::kRows,
                            .capacity = {.tile_density = 0.9, .max_density = 1e-3},
                            .scratch_bytes = size_t{128} << 20};
  const HostGraph expected = draw_graph(kCpuDevice, c, {}, options);
  const HostGraph actual = draw_graph(cuda_under_test(), c, {}, options);
  EXPECT_GT(expected.edges().num_edges(0), 100);
  expect_same_graph(actual, expected);
}

// Their lists do not fit into shared memory.
TEST_F(SamplerOnCuda, DrawsFromAliasTablesOfManyKeys) {
  SbmCase c = varied_case(2, 8300, 3, {.has_masks = true, .delta = 0.003f});
  c.law = MaskLaw::kPoissonCollapse;
  DrawOptions options = draw_options(SamplerKind::kRows, c.law);
  options.scratch_bytes = size_t{32} << 20;
  const HostGraph expected = draw_graph(kCpuDevice, c, {}, options);
  EXPECT_GT(expected.edges().num_edges(0), 100);
  expect_same_graph(draw_graph(cuda_under_test(), c, {}, options), expected);
}

// Many chunks of rows; rows whose keys several warps share, with an empty row, a row of all keys
// and one in between.
TEST_F(SamplerOnCuda, BringsEdgesByKeyHoweverTheyAreCut) {
  for (const auto& [n, m] : {std::pair{1100, 5}, {70, 4300}}) {
    SbmCase c{.n = n, .m = m, .k = 1};
    for (int64_t i = 0; i < n; ++i) {
      c.mu.push_back(i % 35 == 3 ? 0.0f : i % 35 == 4 ? 2.0f : i % 35 == 5 ? 0.5f : 0.003f);
    }
    c.z.assign(static_cast<size_t>(m), 1.0f);
    for (MaskLaw law : {MaskLaw::kBernoulli, MaskLaw::kPoissonMulti}) {
      c.law = law;
      SCOPED_TRACE(name_of(c, SamplerKind::kRows));
      expect_the_cpus_graph(c, {.step = 2}, draw_options(SamplerKind::kRows, law));
    }
  }
}

TEST_F(SamplerOnCuda, GivesNoEdgesWhereProbabilitiesAreNan) {
  for (MaskLaw law : kAllLaws) {
    for (SamplerKind sampler : kAllSamplers) {
      SbmCase c = varied_case(70, 70, 5, {});
      c.law = law;
      SCOPED_TRACE(name_of(c, sampler));
      std::fill(c.z.begin(), c.z.begin() + 70 * 5 * 2, NAN);
      expect_the_cpus_graph(c, {}, draw_options(sampler, law));
    }
  }
}

TEST_F(SamplerOnCuda, HandlesGraphsWithoutTokens) {
  for (const auto& [n, m] : {std::pair{0, 5}, {5, 0}}) {
    for (SamplerKind sampler : kAllSamplers) {
      const SbmCase c{.n = n,
                      .m = m,
                      .k = 2,
                      .mu = std::vector<float>(static_cast<size_t>(n * 2), 0.5f),
                      .z = std::vector<float>(static_cast<size_t>(m * 2), 0.5f)};
      const HostGraph graph =
          draw_graph(cuda_under_test(), c, {}, draw_options(sampler, MaskLaw::kBernoulli));
      EXPECT_EQ(graph.edges().num_edges(0), 0);
      EXPECT_EQ(graph_defect(graph.edges()), "");
    }
  }
}

// Mean probability 0.4 where 0.15 was promised.
TEST_F(SamplerOnCuda, KeepsTheFirstEdgesThatFitAndCountsTheRest) {
  SbmCase c{.heads = 2, .n = 64, .m = 64, .k = 1};
  c.mu.assign(64, 0.1f);
  c.mu.resize(128, 0.4f);
  c.z.assign(128, 1.0f);
  for (MaskLaw law : {MaskLaw::kBernoulli, MaskLaw::kPoissonMulti}) {
    c.law = law;
    DrawOptions small{.sampler = SamplerKind::kRows,
                      .capacity = {.tile_density = 0.9,
                                   .max_density = 0.15,
                                   .multiplicity = law == MaskLaw::kPoissonMulti}};
    DrawOptions large = small;
    large.capacity.max_density = 0.8;
    const HostGraph all = draw_graph(cuda_under_test(), c, {}, large);
    const HostGraph cut = draw_graph(cuda_under_test(), c, {}, small);
    EXPECT_EQ(graph_defect(cut.edges()), "");
    const int64_t room = cut.edges().storage.shape[1];
    ASSERT_GT(all.edges().num_edges(1), room);
    EXPECT_EQ(cut.edges().num_edges(0), all.edges().num_edges(0));
    EXPECT_EQ(cut.edges().num_edges(1), room);
    EXPECT_EQ(cut.edges().overflow[0], all.edges().num_edges(1) - room);
    for (int64_t e = 0; e < room; ++e) {
      ASSERT_EQ(cut.edges().columns(1)[e], all.edges().columns(1)[e]) << e;
      if (law == MaskLaw::kPoissonMulti) {
        ASSERT_EQ(cut.edges().multiplicity.at(1)[e], all.edges().multiplicity.at(1)[e]) << e;
      }
    }
  }
}

// Scratch holds one problem at a time, or three of the four.
TEST_F(SamplerOnCuda, WavesOfAnySizeGiveTheSameGraphs) {
  for (int64_t wave : {1, 3}) {
    for (MaskLaw law : kAllLaws) {
      for (SamplerKind sampler : kAllSamplers) {
        for (Precision precision : {Precision::kFp32, Precision::kBf16}) {
          SbmCase c = varied_case(70, 50, 10, {.has_masks = true});
          c.law = law;
          SCOPED_TRACE(name_of(c, sampler));
          DrawOptions options = draw_options(sampler, law);
          options.precision = precision;
          const HostGraph expected = draw_graph(cuda_under_test(), c, {}, options);
          options.draw = [wave](const Stream& stream, const kernels::SampleEdges& args) {
            const Arena::Scope scope(*args.scratch);
            kernels::cuda::SampleScratch scratch =
                kernels::cuda::alloc_sample_scratch(*args.scratch, args, stream.precision());
            ASSERT_EQ(scratch.wave, 4);
            scratch.wave = wave;
            kernels::cuda::sample_edges(stream, args, scratch);
          };
          const HostGraph actual = draw_graph(cuda_under_test(), c, {}, options);
          EXPECT_EQ(graph_defect(actual.edges()), "");
          expect_same_graph(actual, expected);
        }
      }
    }
  }
}

#if defined(STIPPLE_CUDA_EMULATED)
TEST_F(SamplerOnCuda, NoOrderOfThreadsOrBlocksShows) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    for (MaskLaw law : kAllLaws) {
      for (SamplerKind sampler : kAllSamplers) {
        SbmCase c = varied_case(140, 140, 5, {.delta = 0.01f, .window_radius = 20});
        c.law = law;
        SCOPED_TRACE(name_of(c, sampler));
        cuda_on_cpu::set_seed(seed);
        expect_the_cpus_graph(c, {}, draw_options(sampler, law));
      }
    }
  }
}
#endif

#if defined(STIPPLE_CUDA_EMULATED)
// Which lane draws which pair is the kernel's affair: graphs of rounded factors are what they were
// when the statistical tests last passed. Sums of tensor cores as they are emulated.
TEST_F(SamplerOnCuda, DrawsTheGraphsOfRoundedFactorsThatItEverDrew) {
  uint64_t hash = 0xcbf29ce484222325;
  for (int64_t k : {3, 20, 128, 200}) {
    for (MaskLaw law : {MaskLaw::kBernoulli, MaskLaw::kPoissonCollapse}) {
      SbmCase c = varied_case(200, 200, k, {.has_masks = true, .delta = 0.01f, .window_radius = 0});
      c.law = law;
      DrawOptions options = draw_options(SamplerKind::kTiles, law);
      options.precision = Precision::kBf16;
      const HostGraph graph = draw_graph(cuda_under_test(), c, {.step = 3, .layer = 1}, options);
      for (int64_t p = 0; p < c.problems(); ++p) {
        const Array<uint8_t> dense = graph.dense(p);
        for (const uint8_t bit : dense.values()) hash = (hash ^ bit) * 0x100000001b3;
      }
    }
  }
  EXPECT_EQ(hash, 14907435580868162757u);
}
#endif

// |dP| is at most 2^-8 of p, and about 2^-10 of it in the mean.
TEST_F(SamplerOnCuda, RoundedProbabilitiesChangeFewBits) {
  for (int64_t k : {3, 20, 128, 200}) {
    for (MaskLaw law : {MaskLaw::kBernoulli, MaskLaw::kPoissonCollapse}) {
      SbmCase c = varied_case(200, 300, k, {.has_masks = true, .delta = 0.01f});
      c.law = law;
      SCOPED_TRACE(name_of(c, SamplerKind::kTiles));
      DrawOptions options = draw_options(SamplerKind::kTiles, law);
      const HostGraph expected = draw_graph(kCpuDevice, c, {}, options);
      options.precision = Precision::kBf16;
      const HostGraph actual = draw_graph(cuda_under_test(), c, {}, options);
      EXPECT_EQ(graph_defect(actual.edges()), "");
      int64_t differ = 0;
      int64_t edges = 0;
      for (int64_t p = 0; p < c.problems(); ++p) {
        const Array<uint8_t> a = actual.dense(p);
        const Array<uint8_t> e = expected.dense(p);
        for (int64_t x = 0; x < a.numel(); ++x) {
          differ += a[x] != e[x] ? 1 : 0;
          edges += e[x];
        }
      }
      EXPECT_LT(static_cast<double>(differ), 4e-3 * static_cast<double>(edges));
      EXPECT_GT(differ, 0);
    }
  }
}

TEST_F(SamplerOnCuda, RoundedFactorsLeaveRowsAlone) {
  SbmCase c = varied_case(60, 60, 10, {});
  DrawOptions options = draw_options(SamplerKind::kRows, c.law);
  const HostGraph expected = draw_graph(kCpuDevice, c, {}, options);
  options.precision = Precision::kBf16;
  expect_same_graph(draw_graph(cuda_under_test(), c, {}, options), expected);
}

// Rows and counted pairs as the CPU draws them from the rounded numbers, tiles as if they were
// rounded only now.
TEST_F(SamplerOnCuda, DrawsFromFactorsThatAreStoredRounded) {
  for (int64_t k : {1, 10, 16, 48, 160}) {
    for (MaskLaw law : kAllLaws) {
      for (SamplerKind sampler : kBothSamplers) {
        SbmCase c = varied_case(70, 140, k, {.has_masks = true, .delta = 0.01f});
        c.law = law;
        for (auto* factors : {&c.mu, &c.z}) {
          for (float& x : *factors) x = to_float(to_bf16(x));
        }
        SCOPED_TRACE(name_of(c, sampler));
        const bool is_exact = sampler == SamplerKind::kRows || law == MaskLaw::kPoissonMulti;
        DrawOptions options = draw_options(sampler, law);
        options.precision = Precision::kBf16;
        const HostGraph expected =
            draw_graph(is_exact ? kCpuDevice : cuda_under_test(), c, {}, options);
        EXPECT_GT(expected.edges().num_edges(0), 100);
        options.storage = Precision::kBf16;
        expect_same_graph(draw_graph(cuda_under_test(), c, {}, options), expected);
      }
    }
  }
}

TEST_F(SamplerOnCuda, ReadsTheStepFromDeviceMemory) {
  DeviceMemory memory(cuda_under_test(), {}, size_t{4} << 20);
  const SbmCase c = varied_case(40, 40, 4, {});
  const HostGraph expected =
      draw_graph(kCpuDevice, c, {.step = 17}, draw_options(SamplerKind::kRows, c.law));
  const EdgeSet edges = put_empty_graph(memory, 4, 40, 40, {.tile_density = 1.0});
  Array<uint64_t> step({1});
  step[0] = 17;
  kernels::sample_edges(
      memory.stream(), {.edges = edges,
                        .mu = memory.put(View<const float>{c.mu.data(), {2, 2, 40, 4}}),
                        .z = memory.put(View<const float>{c.z.data(), {2, 2, 40, 4}}),
                        .expected = memory.zeros<double>({4}),
                        .samples = memory.put(Array<uint32_t>({2}, {0, 1})),
                        .sampler = SamplerKind::kRows,
                        .rng = {.seed = 20221115, .step = 99, .device_step = memory.put(step).data},
                        .scratch = &memory.scratch()});
  expect_same_graph(get_graph(memory, edges), expected);
}

TEST_F(SamplerOnCuda, PlansTheScratchThatItUses) {
  for (SamplerKind sampler : kAllSamplers) {
    for (Precision precision : {Precision::kFp32, Precision::kBf16}) {
      DeviceMemory memory(cuda_under_test(), {.precision = precision}, size_t{4} << 20);
      const SbmCase c = varied_case(40, 40, 4, {});
      const EdgeCapacity capacity = draw_options(sampler, c.law).capacity;
      kernels::sample_edges(memory.stream(),
                            {.edges = put_empty_graph(memory, 4, 40, 40, capacity),
                             .mu = memory.put(View<const float>{c.mu.data(), {2, 2, 40, 4}}),
                             .z = memory.put(View<const float>{c.z.data(), {2, 2, 40, 4}}),
                             .expected = memory.zeros<double>({4}),
                             .samples = memory.zeros<uint32_t>({2}),
                             .sampler = sampler,
                             .scratch = &memory.scratch()});
      memory.stream().synchronize();
      const Device planned = meta_device(DeviceType::kCuda);
      Arena graphs("graphs", planned), scratch("scratch", planned);
      kernels::sample_edges(Stream(planned, {.precision = precision}),
                            {.edges = kernels::alloc_edges(graphs, 4, 40, 40, capacity),
                             .mu = View<const float>{nullptr, {2, 2, 40, 4}},
                             .z = View<const float>{nullptr, {2, 2, 40, 4}},
                             .expected = {nullptr, {4}},
                             .samples = {nullptr, {2}},
                             .sampler = sampler,
                             .scratch = &scratch});
      EXPECT_EQ(scratch.peak(), memory.scratch().peak());
    }
  }
}

/// What a plan reserves for 2 heads of 128 clusters.
size_t planned_scratch(int64_t batch, int64_t length, SamplerKind sampler, Precision precision) {
  const Device planned = meta_device(DeviceType::kCuda);
  Arena graphs("graphs", planned), scratch("scratch", planned);
  const RealView factors(nullptr, {batch, 2, length, 128}, precision);
  kernels::sample_edges(
      Stream(planned, {.precision = precision}),
      {.edges = kernels::alloc_edges(graphs, 2 * batch, length, length, EdgeCapacity{}),
       .mu = factors,
       .z = factors,
       .expected = {nullptr, {2 * batch}},
       .samples = {nullptr, {batch}},
       .sampler = sampler,
       .scratch = &scratch});
  return scratch.peak();
}

// A run plans its largest leaf; the last ones are smaller, and may go into fewer, larger waves.
TEST(SamplerPlan, OfTheLargestLeafServesSmallerOnes) {
  for (SamplerKind sampler : kAllSamplers) {
    for (Precision precision : {Precision::kFp32, Precision::kBf16}) {
      const size_t most = planned_scratch(128, 2048, sampler, precision);
      for (int64_t batch = 1; batch <= 128; batch += 7) {
        for (int64_t length = 100; length <= 2048; length += 148) {
          EXPECT_LE(planned_scratch(batch, length, sampler, precision), most)
              << batch << " sequences of " << length;
        }
      }
    }
  }
}

}  // namespace
}  // namespace stipple::test
