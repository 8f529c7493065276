// SPDX-License-Identifier: Apache-2.0
// GB/s of gradients through a reducer, one leaf per rank and nothing to hide behind: the time of
// end_leaf() and finish(), of the slowest rank. Runs alone or under mpirun; rank 0 reports.
//
//   mpirun -np 2 build/bin/bench_reduce
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>

#include "comm/gradient_reducer.h"

namespace stipple::comm {
namespace {

Communicator* g_communicator =
    nullptr;  // benchmarks are registered functions and take no arguments of ours

double timed_step(GradientReducer& reducer, Communicator& communicator) {
  reducer.begin_leaf(communicator.rank());
  const View<float> grads = reducer.grads();
  std::fill_n(grads.data, grads.numel(), 1.0f);
  communicator.barrier();
  const auto begin = std::chrono::steady_clock::now();
  reducer.end_leaf();
  benchmark::DoNotOptimize(reducer.finish().data);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  return communicator.all_reduce(elapsed.count(), Reduction::kMax);
}

void reduce(benchmark::State& state, ReductionPolicy policy) {
  Communicator& communicator = *g_communicator;
  const int64_t numel = state.range(0) * (1 << 20) / int64_t{sizeof(float)};
  const auto reducer = make_gradient_reducer(
      communicator, {.policy = policy, .numel = numel, .num_leaves = communicator.size()});
  timed_step(*reducer, communicator);
  for (auto _ : state) state.SetIterationTime(timed_step(*reducer, communicator));
  state.SetBytesProcessed(state.iterations() * numel * int64_t{sizeof(float)});
  state.counters["ranks"] = communicator.size();
}

// Ranks must agree on the number of iterations, so it is fixed.
void sizes(benchmark::internal::Benchmark* b) {
  b->ArgName("MiB")->Arg(1)->Arg(4)->Arg(16)->Arg(64);
  b->UseManualTime()->Iterations(20)->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(reduce, exact, ReductionPolicy::kExact)->Apply(sizes);
BENCHMARK_CAPTURE(reduce, fast, ReductionPolicy::kFast)->Apply(sizes);

class SilentReporter final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

}  // namespace
}  // namespace stipple::comm

int main(int argc, char** argv) {
  const auto communicator = stipple::comm::make_mpi_communicator();
  stipple::comm::g_communicator = communicator.get();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  stipple::comm::SilentReporter silent;
  if (communicator->rank() == 0) {
    benchmark::RunSpecifiedBenchmarks();
  } else {
    benchmark::RunSpecifiedBenchmarks(&silent);
  }
  return 0;
}
