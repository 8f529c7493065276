// SPDX-License-Identifier: Apache-2.0
// What it costs to draw SBM graphs: pairs per second of the tile sampler, edges per second of the
// row sampler by density and law, and the passes over memberships around them. One thread, N = M =
// 2048, K = 128 unless a name says otherwise. Gpair/s counts all N M pairs, Medge/s the drawn
// edges, both per second of CPU time of the measuring thread.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/cpu/isa.h"
#include "core/stream.h"
#include "kernels/matmul.h"
#include "kernels/sbm.h"

namespace stipple::kernels {
namespace {

constexpr int64_t kClusters = 128;
constexpr size_t kArenaBytes = size_t{1} << 28;

/// Heterogeneous memberships whose mean product is about `density`.
struct Inputs {
  Inputs(int64_t tokens, double density)
      : n(tokens), mu(static_cast<size_t>(n * kClusters)), z(mu.size()) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    double total_mu = 0;
    for (float& x : mu)
      total_mu += static_cast<double>(x = 1.0f / (1.0f + std::exp(normal(generator))));
    for (float& x : z) x = 1.0f / (1.0f + std::exp(normal(generator)));
    const double mean = total_mu / static_cast<double>(n) * 0.5;
    for (float& x : mu) x *= static_cast<float>(density / mean);
    expected = density * static_cast<double>(n * n);
  }

  int64_t n;
  std::vector<float> mu, z;
  double expected = 0;
};

void set_isa_label(benchmark::State& state, const std::string& what) {
  state.SetLabel(what + " " + std::string(stipple::cpu::isa_name(stipple::cpu::isa())));
}

void sample(benchmark::State& state, int64_t n, double density, MaskLaw law, SamplerKind sampler) {
  const Stream stream(kCpuDevice);
  Inputs in(n, density);
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
