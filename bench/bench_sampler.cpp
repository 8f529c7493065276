// SPDX-License-Identifier: Apache-2.0
// What it costs to draw SBM graphs: pairs per second of the tile sampler, edges per second of the
// row sampler by density and law, and the passes over memberships around them. One thread, N = M =
// 2048, K = 128 unless a name says otherwise. Gpair/s counts all N M pairs, Medge/s the drawn
// edges, both per second of CPU time of the measuring thread. open_percent is the share of pairs
// that products of bytes leave to fp32 (0 without VNNI), wide_percent of those that were drawn in
// fp32 at once.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/cpu/isa.h"
#include "core/stream.h"
#include "kernels/cpu/sample/sample.h"
#include "kernels/cpu/sample/scratch.h"
#include "kernels/matmul.h"
#include "kernels/sbm.h"

namespace stipple::kernels {
namespace {

constexpr int64_t kClusters = 128;
constexpr size_t kArenaBytes = size_t{1} << 28;

/// kPeaked: every token is in one of four clusters, by 0.95 or so, and hardly in the others.
enum class Kind { kFlat, kPeaked };

/// Heterogeneous memberships whose mean product is about `density`.
struct Inputs {
  Inputs(int64_t tokens, double density, Kind kind = Kind::kFlat)
      : n(tokens), mu(static_cast<size_t>(n * kClusters)), z(mu.size()) {
    if (kind == Kind::kFlat) {
      fill_flat();
    } else {
      fill_peaked();
    }
    scale(density);
    expected = density * static_cast<double>(n * n);
  }

  void fill_flat() {
    for (float& x : mu) x = sigmoid(0.0f);
    for (float& x : z) x = sigmoid(0.0f);
  }

  void fill_peaked() {
    constexpr size_t kBlocks = 4;  // as many as the density allows
    constexpr auto k = static_cast<size_t>(kClusters);
    for (std::vector<float>* memberships : {&mu, &z}) {
      for (float& x : *memberships) x = sigmoid(-4.0f);
      for (size_t i = 0; i < memberships->size(); i += k) {
        (*memberships)[i + generator() % kBlocks] = sigmoid(3.0f);
      }
    }
  }

  float sigmoid(float mean) { return 1.0f / (1.0f + std::exp(normal(generator) - mean)); }

  void scale(double density) {
    std::vector<double> mu_sum(static_cast<size_t>(kClusters)), z_sum = mu_sum;
    for (size_t i = 0; i < mu.size(); ++i) {
      mu_sum[i % mu_sum.size()] += static_cast<double>(mu[i]);
      z_sum[i % z_sum.size()] += static_cast<double>(z[i]);
    }
    double total = 0;
    for (size_t v = 0; v < mu_sum.size(); ++v) total += mu_sum[v] * z_sum[v];
    const double mean = total / static_cast<double>(n * n);
    for (float& x : mu) x *= static_cast<float>(density / mean);
  }

  std::mt19937 generator{1};
  std::normal_distribution<float> normal{0.0f, 1.0f};
  int64_t n;
  std::vector<float> mu, z;
  double expected = 0;
};

void set_isa_label(benchmark::State& state, const std::string& what) {
  state.SetLabel(what + " " + std::string(stipple::cpu::isa_name(stipple::cpu::isa())) +
                 (stipple::cpu::has_vnni() ? "+vnni" : ""));
}

/// Sets open_percent and wide_percent, by one more graph.
void count_open_pairs(benchmark::State& state, const SampleEdges& args) {
  const Arena::Scope scope(*args.scratch);
  cpu::TileScratch scratch = cpu::alloc_sample_scratch(*args.scratch, args, 1).tiles(0);
  cpu::TileWork work;
  scratch.work = &work;
  const int64_t n = args.edges.num_queries;
  const cpu::SampleProblem problem{.mu = args.mu.floats().data,
                                   .z = args.z.floats().data,
                                   .num_queries = n,
                                   .num_keys = n,
                                   .num_clusters = kClusters,
                                   .law = args.law,
                                   .key = args.rng.philox()};
  const int64_t words = (n + 31) / 32;
  std::vector<uint32_t> bits(static_cast<size_t>(cpu::kMaxTileRows * words));
  for (int64_t i = 0; i < n; i += cpu::kMaxTileRows) {
    const Range rows{i, std::min(n, i + cpu::kMaxTileRows)};
    cpu::sample_kernels().tile_rows(problem, rows, scratch, bits.data());
  }
  const double pairs = static_cast<double>(n * n);
  state.counters["open_percent"] = 100.0 * static_cast<double>(work.open) / pairs;
  state.counters["wide_percent"] = 100.0 * static_cast<double>(work.wide_pairs) / pairs;
}

void sample(benchmark::State& state, int64_t n, double density, MaskLaw law, SamplerKind sampler,
            Kind kind = Kind::kFlat) {
  const Stream stream(kCpuDevice);
  Inputs in(n, density, kind);
  Arena memory("benchmark", kCpuDevice, kArenaBytes);
  Arena scratch("scratch", kCpuDevice, kArenaBytes);
  // Rows: room for CSR alone. Tiles: room for bits.
  const bool by_tiles = sampler == SamplerKind::kTiles;
  const EdgeSet edges = alloc_edges(memory, 1, n, n,
                                    {.tile_density = by_tiles ? 0.0 : 1.0,
                                     .max_density = by_tiles ? 1.0 : std::min(1.0, 1.5 * density),
                                     .multiplicity = law == MaskLaw::kPoissonMulti});
  const uint32_t id = 0;
  SampleEdges args{.edges = edges,
                   .mu = {in.mu.data(), {1, 1, n, kClusters}},
                   .z = {in.z.data(), {1, 1, n, kClusters}},
                   .expected = {&in.expected, {1}},
                   .samples = {&id, {1}},
                   .law = law,
                   .sampler = sampler,
                   .scratch = &scratch};
  sample_edges(stream, args);  // touches the memory
  int64_t drawn = 0;
  for (auto _ : state) {
    ++args.rng.step;
    sample_edges(stream, args);
    drawn += edges.num_edges(0);
  }
  const auto iterations = static_cast<double>(state.iterations());
  using benchmark::Counter;
  state.counters["Gpair/s"] =
      Counter(iterations * static_cast<double>(n * n) * 1e-9, Counter::kIsRate);
  state.counters["Medge/s"] = Counter(static_cast<double>(drawn) * 1e-6, Counter::kIsRate);
  state.counters["percent"] =
      100.0 * static_cast<double>(drawn) / (iterations * static_cast<double>(n * n));
  if (by_tiles) count_open_pairs(state, args);
}

const char* law_name(MaskLaw law) {
  constexpr const char* kNames[] = {"bernoulli", "poisson_collapse", "poisson_multi"};
  return kNames[static_cast<size_t>(law)];
}

void tiles(benchmark::State& state) {
  const auto law = static_cast<MaskLaw>(state.range(0));
  set_isa_label(state, law_name(law));
  sample(state, 2048, 0.25, law, SamplerKind::kTiles);
}
BENCHMARK(tiles)->ArgName("law")->Arg(0)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond);

void tiles_of_peaked(benchmark::State& state) {
  const auto law = static_cast<MaskLaw>(state.range(0));
  set_isa_label(state, law_name(law));
  sample(state, 2048, 0.25, law, SamplerKind::kTiles, Kind::kPeaked);
}
BENCHMARK(tiles_of_peaked)->ArgName("law")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

void rows(benchmark::State& state) {
  const auto law = static_cast<MaskLaw>(state.range(0));
  set_isa_label(state, law_name(law));
  sample(state, 2048, static_cast<double>(state.range(1)) / 100.0, law, SamplerKind::kRows);
}
BENCHMARK(rows)
    ->ArgNames({"law", "percent"})
    ->ArgsProduct({{0, 1, 2}, {1, 2, 5, 10, 25}})
    ->Unit(benchmark::kMillisecond);

void rows_at_degree_64(benchmark::State& state) {
  const int64_t n = state.range(0);
  set_isa_label(state, "bernoulli");
  sample(state, n, 64.0 / static_cast<double>(n), MaskLaw::kBernoulli, SamplerKind::kRows);
}
BENCHMARK(rows_at_degree_64)
    ->ArgName("tokens")
    ->RangeMultiplier(2)
    ->Range(1024, 16384)
    ->Unit(benchmark::kMillisecond);

void expected_edges_of_a_head(benchmark::State& state) {
  const Stream stream(kCpuDevice);
  const Inputs in(2048, 0.02);
  const std::vector<float> s(static_cast<size_t>(kClusters * kClusters), 1e-4f);
  std::vector<double> sums(static_cast<size_t>(2 * kClusters));
  double expected = 0;
  set_isa_label(state, "");
  for (auto _ : state) {
    expected_edges(stream, {.expected = {&expected, {1}},
                            .y_sum = {sums.data(), {1, kClusters}},
                            .z_sum = {sums.data() + kClusters, {1, kClusters}},
                            .y = {in.mu.data(), {1, 1, in.n, kClusters}},
                            .z = {in.z.data(), {1, 1, in.n, kClusters}},
                            .s = {s.data(), {1, kClusters, kClusters}}});
  }
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(in.mu.size() * 8) * 1e-9,
      benchmark::Counter::kIsRate);
}
BENCHMARK(expected_edges_of_a_head)->Unit(benchmark::kMicrosecond);

void memberships_of_a_head(benchmark::State& state) {
  const Stream stream(kCpuDevice);
  Inputs in(2048, 0.02);
  set_isa_label(state, "");
  const Shape shape{1, 1, in.n, kClusters};
  for (auto _ : state) {
    memberships(stream, {.y = {in.mu.data(), shape}, .logits = {in.z.data(), shape}});
  }
  state.counters["Gelement/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(in.mu.size()) * 1e-9,
      benchmark::Counter::kIsRate);
}
BENCHMARK(memberships_of_a_head)->Unit(benchmark::kMicrosecond);

/// The dense products of one head of an SbmAttention, forward and backward: phi, logits and Y S of
/// both sides, and what their gradients take. D = 32.
void products_of_a_head(benchmark::State& state) {
  constexpr int64_t kTokens = 2048, kWidth = 32;
  const Stream stream(kCpuDevice);
  Arena memory("benchmark", kCpuDevice, kArenaBytes);
  const auto array = [&](Shape shape) {
    const View<float> view = memory.alloc<float>(shape);
    std::fill(view.span().begin(), view.span().end(), 0.01f);
    return view;
  };
  const auto x = array({kTokens, kWidth}), embedded = array({kTokens, kWidth});
  const auto weight = array({kWidth, kWidth}), bias = array({kWidth});
  const auto clusters = array({kClusters, kWidth}), s = array({kClusters, kClusters});
  const auto y = array({kTokens, kClusters}), dlogits = array({kTokens, kClusters});
  const auto product = [&](const char* of, View<float> c, View<float> a, View<float> b) {
    const std::string transposed = of;
    matmul(stream, {.c = c,
                    .a = a,
                    .b = b,
                    .transpose_a = transposed == "aT b",
                    .transpose_b = transposed == "a bT",
                    .scratch = &memory});
  };
  set_isa_label(state, "");
  for (auto _ : state) {
    for (int side = 0; side < 2; ++side) {
      for (int layer = 0; layer < 2; ++layer) {
        linear(stream, {.y = embedded, .x = x, .weight = weight, .bias = bias});
        linear_backward(stream, {.dx = embedded,
                                 .dweight = weight,
                                 .dbias = bias,
                                 .dy = x,
                                 .x = x,
                                 .weight = weight,
                                 .scratch = &memory});
      }
      product("a bT", dlogits, embedded, clusters);  // logits
      product("aT b", clusters, dlogits, x);         // dclusters
      product("a b", embedded, dlogits, clusters);   // dembedded
    }
    product("a b", dlogits, y, s);   // Y S
    product("aT b", s, y, dlogits);  // dS
    product("a bT", dlogits, y, s);  // dY
    product("a b", dlogits, y, s);   // dZ
  }
}
BENCHMARK(products_of_a_head)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace stipple::kernels

BENCHMARK_MAIN();
