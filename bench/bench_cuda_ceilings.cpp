// SPDX-License-Identifier: Apache-2.0
// What the GPU gives at best: a copy within its memory, and a product of two large bf16 matrices.
#include <vector>

#include "bench/bench_cuda.h"
#include "core/arena.h"
#include "core/copy.h"
#include "kernels/matmul.h"

namespace stipple::bench {
namespace {

constexpr int kRounds = 5;
constexpr int kCallsPerRound = 5;

/// Mean of a round's calls, by events, after one call that does not count.
template <class Body>
double measure_ms(benchmark::State& state, const Stream& stream, const Body& body) {
  Event begin(stream.device()), end(stream.device());
  body();
  double least = 1e300;
  for (auto _ : state) {
    stream.record(begin);
    for (int i = 0; i < kCallsPerRound; ++i) body();
    stream.record(end);
    end.synchronize();
    const double ms = end.ms_since(begin) / kCallsPerRound;
    state.SetIterationTime(ms * 1e-3);
    least = std::min(least, ms);
  }
  return least;
}

void measure_copy(benchmark::State& state, int64_t mb) {
  JsonLine line;
  line.add("name", "ceiling/copy").add("implementation", "runtime").add("op", "ceiling");
  or_say_why_not(state, line, [&] {
    const Stream stream(cuda_device(0));
    const size_t bytes = static_cast<size_t>(mb) << 20;
    const Buffer from(cuda_device(0), bytes), to(cuda_device(0), bytes);
    const double ms =
        measure_ms(state, stream, [&] { copy_bytes(stream, to.data(), from.data(), bytes); });
    tell(state, line, "ms", ms);
    tell(state, line, "gb_s", 2 * static_cast<double>(bytes) / ms * 1e-6);
    line.append_to_file();
  });
}

void measure_matmul(benchmark::State& state, int64_t n) {
  JsonLine line;
  line.add("name", "ceiling/matmul").add("implementation", "cublaslt").add("op", "ceiling");
  line.add("n", static_cast<double>(n)).add("precision", "bf16");
  or_say_why_not(state, line, [&] {
    const Stream stream(cuda_device(0), {.precision = Precision::kBf16});
    Arena arena("matrices", cuda_device(0), static_cast<size_t>(3 * n * n) * 2 + (1 << 12));
    const Shape shape = {n, n};
    const RealView a = arena.alloc(Precision::kBf16, shape);
    const RealView b = arena.alloc(Precision::kBf16, shape);
    const RealView c = arena.alloc(Precision::kBf16, shape);
    // Zeros would take less power, and so more clock, than numbers.
    std::vector<bf16> numbers(static_cast<size_t>(n * n));
    uint32_t state_of = 1;
    for (bf16& x : numbers) {
      state_of = state_of * 1664525u + 1013904223u;
      x = to_bf16(static_cast<float>(state_of >> 8) * 0x1p-23f - 1.0f);
    }
    upload(stream, a.as<bf16>(), numbers);
    upload(stream, b.as<bf16>(), numbers);
    const double ms =
        measure_ms(state, stream, [&] { kernels::matmul(stream, {.c = c, .a = a, .b = b}); });
    const double side = static_cast<double>(n);
    tell(state, line, "ms", ms);
    tell(state, line, "tflop_s", 2 * side * side * side / ms * 1e-9);
    line.append_to_file();
  });
}

}  // namespace

void add_ceilings(bool smoke) {
  const auto add = [](const char* name, void (*measure)(benchmark::State&, int64_t), int64_t size) {
    benchmark::RegisterBenchmark(name, [=](benchmark::State& state) { measure(state, size); })
        ->UseManualTime()
        ->Iterations(kRounds)
        ->Unit(benchmark::kMillisecond);
  };
  add("ceiling/copy", measure_copy, smoke ? 1 : 4096);
  add("ceiling/matmul", measure_matmul, smoke ? 64 : 8192);
}

}  // namespace stipple::bench
