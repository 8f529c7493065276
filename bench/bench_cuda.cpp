// SPDX-License-Identifier: Apache-2.0
// Attention kernels, samplers and whole training steps on a GPU, timed by CUDA events. Prints a
// table; with --jsonl=FILE also one JSON object a line as soon as it is known (bench/README.md says
// what its fields mean). What the project aims at is in targets(); those entries run first.
//
//   bench_cuda --benchmark_filter='N:4096/d:64/.*percent:25' --jsonl=sweep.jsonl
//   bench_cuda --smoke      tiny sizes: does it still work?
//   --only=KIND             targets, ceilings, steps or sweep; all four otherwise
//   --recipe=FILE           of training steps; configs/recipe/lra_listops_sbm.yaml by default
//   --require-all           exit code 1 when an entry could not run
//
// Beside each target 64 random rows of what it computes are checked against sums in double, from
// results filled with NaN before, and a second run must give the same bits (bench_cuda_check.h).
//
// Caches are not flushed: arrays exceed them except where N and B H are small. Exit code 3: no GPU.
#include "bench/bench_cuda.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "bench/bench_cuda_check.h"
#include "core/copy.h"
#include "core/cuda/runtime.h"
#include "kernels/attend.h"
#include "kernels/sbm.h"

namespace stipple::bench {

Settings& settings() {
  static Settings all;
  return all;
}

JsonLine& JsonLine::add(const char* key, double value) {
  text_ << ", \"" << key << "\": ";
  if (std::isfinite(value)) {
    text_ << value;
  } else {
    text_ << "null";
  }
  return *this;
}

JsonLine& JsonLine::add(const char* key, std::string value) {
  for (char& c : value) {
    if (c == '"' || c == '\\' || c == '\n') c = ' ';
  }
  text_ << ", \"" << key << "\": \"" << value << '"';
  return *this;
}

void JsonLine::append_to_file() const {
  if (settings().jsonl.empty()) return;
  std::ofstream(settings().jsonl, std::ios::app)
      << "{\"source\": \"stipple\"" << text_.str() << "}\n";
}

namespace {

using kernels::EdgeSet;
using kernels::EdgesImplementation;

constexpr uint64_t kSeed = 1, kStep = 2;  // of graphs
constexpr int kRounds = 5;
constexpr double kMsPerRound = 5;
constexpr int kMostCallsPerRound = 50;

// --- what is measured ----------------------------------------------------------------------------

enum class Way { kDense, kTiles, kGather, kCusparse };

constexpr const char* name(Way way) {
  constexpr const char* kNames[] = {"dense", "tiles", "gather", "cusparse"};
  return kNames[static_cast<size_t>(way)];
}
constexpr const char* name(Pass pass) {
  constexpr const char* kNames[] = {"forward", "backward", "backward_ste", "sample"};
  return kNames[static_cast<size_t>(pass)];
}

/// B * H problems of N queries and keys; `way` says how their graph is stored and who computes.
struct Case {
  Way way = Way::kTiles;
  int64_t problems = 256;
  int64_t n = 4096;
  int64_t d = 64;
  int64_t clusters = 128;
  double percent = 25;
  Precision precision = Precision::kBf16;
  bool operator==(const Case&) const = default;

  double density() const { return way == Way::kDense ? 1.0 : percent / 100; }
  double pairs() const {
    return static_cast<double>(problems) * static_cast<double>(n) * static_cast<double>(n);
  }
};

struct Target {
  double first_ms, goal_ms;
};

/// On one H200, B * H = 256, N = 4096, K = 128, bf16.
std::optional<Target> target(const Case& c, Pass pass) {
  if (c.problems != 256 || c.n != 4096 || c.precision != Precision::kBf16) return std::nullopt;
  const bool wide = c.d == 64;
  if (c.way == Way::kTiles && c.percent >= 2) {
    if (pass == Pass::kForward) return wide ? Target{3.8, 2.6} : Target{2.6, 1.8};
    if (pass == Pass::kBackwardSte && c.clusters == 128)
      return wide ? Target{24, 15} : Target{20, 13.7};
    if (pass == Pass::kSample && c.clusters == 128) return Target{5, 2.8};
  }
  if (c.way == Way::kGather && c.percent == 1 && pass == Pass::kForward)
    return wide ? Target{2.6, 1.9} : Target{1.5, 0.95};
  return std::nullopt;
}

/// Targets are, and the entries of a smoke test.
bool is_checked(const Case& c, Pass pass) {
  return c.way != Way::kCusparse && (target(c, pass) || c.n <= 256);
}

/// Least work: multiply-adds that the mathematics needs per pair (tiles) or edge, and every array
/// read or written once.
struct Cost {
  double flop = 0;
  double bytes = 0;
};

Cost cost(const Case& c, Pass pass, double edges) {
  const double d = static_cast<double>(c.d);
  const double k = static_cast<double>(c.clusters);
  const bool by_pair = c.way == Way::kTiles || c.way == Way::kDense;
  const double terms = by_pair ? c.pairs() : edges;
  const double rows = static_cast<double>(c.problems) * static_cast<double>(c.n);
  const double graph = c.way == Way::kDense ? 0 : by_pair ? c.pairs() / 8 : 4 * edges;
  const double bytes = static_cast<double>(bytes_of(c.precision));
  switch (pass) {
    case Pass::kForward:
      return {4 * d * terms, rows * (4 * bytes * d + 4) + graph};
    case Pass::kBackward:
      return {10 * d * terms, rows * (8 * bytes * d + 4) + 2 * graph};
    case Pass::kBackwardSte:
      return {(10 * d + 4 * k) * terms, rows * (8 * bytes * d + 4 * bytes * k + 4) + 2 * graph};
    case Pass::kSample:
      return {2 * k * terms, rows * 2 * bytes * k + 2 * graph};
  }
  return {};
}

// --- one case on the device ----------------------------------------------------------------------

struct Sizes {
  size_t arrays = 0, scratch = 0;
};

class Problem {
 public:
  /// On meta, where it is a plan, sizes are ignored.
  Problem(const Case& c, Device device, const Sizes& sizes)
      : case_(c),
        stream_(device, {.precision = c.precision}),
        arrays_(arena("arrays", device, sizes.arrays)),
        scratch_(arena("scratch", device, sizes.scratch)) {
    const int64_t p = c.problems;
    const Shape rows = {1, p, c.n, c.d};
    for (auto* view : {&q_, &k_, &v_, &dout_}) *view = random(rows);
    for (auto* view : {&o_, &dq_, &dk_, &dv_}) *view = arrays_.alloc(c.precision, rows);
    lse_ = arrays_.alloc<float>({1, p, c.n});
    if (c.way != Way::kDense) make_graph();
    run(Pass::kForward);
  }

  static Sizes plan(const Case& c) {
    Problem meta(c, meta_device(DeviceType::kCuda), {});
    meta.run(Pass::kBackward);
    if (meta.has_ste()) meta.run(Pass::kBackwardSte);
    return {meta.arrays_.peak(), meta.scratch_.peak()};
  }

  void run(Pass pass) {
    if (pass == Pass::kSample) return sample();
    if (pass == Pass::kForward) return case_.way == Way::kDense ? forward_dense() : forward();
    case_.way == Way::kDense ? backward_dense() : backward(pass == Pass::kBackwardSte);
  }

  /// Mean of many calls.
  double measure_ms(Pass pass, int calls) {
    Event begin(stream_.device());
    Event end(stream_.device());
    stream_.record(begin);
    for (int i = 0; i < calls; ++i) run(pass);
    stream_.record(end);
    end.synchronize();
    return end.ms_since(begin) / calls;
  }

  PassArrays arrays() const {
    PassArrays a{.problems = case_.problems,
                 .n = case_.n,
                 .d = case_.d,
                 .clusters = case_.clusters,
                 .scale = scale(),
                 .edges = edges_,
                 .q = q_,
                 .k = k_,
                 .v = v_,
                 .dout = dout_,
                 .mu = mu_,
                 .z = z_,
                 .o = o_,
                 .dq = dq_,
                 .dk = dk_,
                 .dv = dv_,
                 .row_grad = row_grad_,
                 .column_grad = column_grad_,
                 .lse = lse_,
                 .seed = kSeed,
                 .step = kStep};
    return a;
  }
  const Stream& stream() const { return stream_; }

  double num_edges() const {
    if (case_.way == Way::kDense) return case_.pairs();
    std::vector<int32_t> ends(static_cast<size_t>(edges_.row_ptr.numel()));
    download(stream_, std::span<int32_t>(ends), edges_.row_ptr);
    double sum = 0;
    for (int64_t p = 0; p < case_.problems; ++p)
      sum += ends[static_cast<size_t>(p * (case_.n + 1) + case_.n)];
    return sum;
  }

 private:
  bool is_plan() const { return stream_.device().type == DeviceType::kMeta; }
  bool has_ste() const { return case_.way != Way::kDense; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(case_.d)); }
  EdgesImplementation implementation() const {
    return case_.way == Way::kCusparse ? EdgesImplementation::kCusparse
                                       : EdgesImplementation::kOurs;
  }
  static Arena arena(const char* name, Device device, size_t bytes) {
    return device.type == DeviceType::kMeta ? Arena(name, device) : Arena(name, device, bytes);
  }

  /// Copies of one block of numbers one after another.
  RealView filled(const Shape& shape, const std::vector<float>& block) {
    const RealView view = arrays_.alloc(case_.precision, shape);
    if (!is_plan()) {
      with_real_type(view.precision, [&](auto zero) { fill(view.as<decltype(zero)>(), block); });
    }
    return view;
  }
  template <class T>
  void fill(View<T> view, const std::vector<float>& block) {
    std::vector<T> stored(block.size());
    std::transform(block.begin(), block.end(), stored.begin(), from_float<T>);
    const int64_t length = static_cast<int64_t>(block.size());
    for (int64_t at = 0; at < view.numel(); at += length) {
      const int64_t count = std::min(length, view.numel() - at);
      copy_bytes(stream_, view.data + at, stored.data(), static_cast<size_t>(count) * sizeof(T));
    }
    stream_.synchronize();
  }
  RealView random(const Shape& shape) {
    std::vector<float> block(is_plan() ? 1 : size_t{1} << 18);
    std::normal_distribution<float> normal;
    for (float& x : block) x = normal(generator_);
    return filled(shape, block);
  }

  /// Equal probabilities everywhere: z = 1/2 and the sum of mu is twice the density.
  void make_graph() {
    const int64_t p = case_.problems;
    const Shape memberships = {1, p, case_.n, case_.clusters};
    const double mu = 2 * case_.density() / static_cast<double>(case_.clusters);
    mu_ = filled(memberships, std::vector<float>(4096, static_cast<float>(mu)));
    z_ = filled(memberships, std::vector<float>(4096, 0.5f));
    for (auto* view : {&row_grad_, &column_grad_})
      *view = arrays_.alloc(case_.precision, memberships);
    expected_ = arrays_.alloc<double>({p});
    samples_ = arrays_.alloc<uint32_t>({1});
    const bool bits = case_.way == Way::kTiles;
    edges_ =
        kernels::alloc_edges(arrays_, p, case_.n, case_.n,
                             {.tile_density = bits ? 0.0 : 1.0,
                              .max_density = bits ? 1.0 : std::min(1.0, 1.05 * case_.density())});
    if (!is_plan()) {
      upload(stream_, expected_,
             std::vector<double>(static_cast<size_t>(p),
                                 case_.pairs() / static_cast<double>(p) * case_.density()));
      fill_zero(stream_, samples_);
    }
    sample();
  }

  void sample() {
    const bool bits = case_.way == Way::kTiles;
    kernels::sample_edges(
        stream_, {.edges = edges_,
                  .mu = mu_,
                  .z = z_,
                  .expected = expected_,
                  .samples = samples_,
                  .sampler = bits ? kernels::SamplerKind::kTiles : kernels::SamplerKind::kRows,
                  .rng = {.seed = kSeed, .step = kStep},
                  .scratch = &scratch_});
  }

  void forward_dense() {
    kernels::attend_dense(
        stream_,
        {.o = o_, .lse = lse_, .q = q_, .k = k_, .v = v_, .scale = scale(), .scratch = &scratch_});
  }
  void backward_dense() {
    kernels::attend_dense_backward(stream_, {.dq = dq_,
                                             .dk = dk_,
                                             .dv = dv_,
                                             .q = q_,
                                             .k = k_,
                                             .v = v_,
                                             .o = o_,
                                             .dout = dout_,
                                             .lse = lse_,
                                             .scale = scale(),
                                             .scratch = &scratch_});
  }
  void forward() {
    kernels::attend_edges(stream_, {.o = o_,
                                    .lse = lse_,
                                    .q = q_,
                                    .k = k_,
                                    .v = v_,
                                    .edges = edges_,
                                    .scale = scale(),
                                    .scratch = &scratch_,
                                    .implementation = implementation()});
  }
  void backward(bool with_ste) {
    kernels::StraightThrough ste;
    if (with_ste) ste = {.row_grad = row_grad_, .column_grad = column_grad_, .y = z_, .z = z_};
    kernels::attend_edges_backward(stream_, {.dq = dq_,
                                             .dk = dk_,
                                             .dv = dv_,
                                             .q = q_,
                                             .k = k_,
                                             .v = v_,
                                             .o = o_,
                                             .dout = dout_,
                                             .lse = lse_,
                                             .edges = edges_,
                                             .scale = scale(),
                                             .ste = ste,
                                             .scratch = &scratch_,
                                             .implementation = implementation()});
  }

  Case case_;
  Stream stream_;
  Arena arrays_;
  Arena scratch_;
  std::mt19937 generator_{7};
  RealView q_, k_, v_, dout_, o_, dq_, dk_, dv_, mu_, z_, row_grad_, column_grad_;
  View<float> lse_;
  View<double> expected_;
  View<uint32_t> samples_;
  EdgeSet edges_;
};

/// Entries of one case follow one another and share its memory; only the last case is kept.
Problem& problem_of(const Case& c) {
  static std::optional<Case> last;
  static std::unique_ptr<Problem> problem;
  if (last != c) {
    problem.reset();
    last.reset();
    const Sizes sizes = Problem::plan(c);
    const size_t available = cuda::device_info(0).free_bytes;
    STIPPLE_CHECK(sizes.arrays + sizes.scratch < available, "needs ",
                  (sizes.arrays + sizes.scratch) / 1'000'000'000, " GB, ",
                  available / 1'000'000'000, " GB are free");
    problem = std::make_unique<Problem>(c, cuda_device(0), sizes);
    last = c;
  }
  return *problem;
}

// --- kernels -------------------------------------------------------------------------------------

std::string describe(const Case& c, Pass pass) {
  std::ostringstream text;
  text << name(pass) << '/' << name(c.way) << "/BH:" << c.problems << "/N:" << c.n << "/d:" << c.d;
  if (pass == Pass::kBackwardSte || pass == Pass::kSample) text << "/k:" << c.clusters;
  if (c.way != Way::kDense) text << "/percent:" << c.percent;
  text << '/' << name_of(c.precision);
  return text.str();
}

JsonLine line_of(const Case& c, Pass pass) {
  JsonLine line;
  line.add("name", describe(c, pass)).add("implementation", name(c.way)).add("op", name(pass));
  line.add("bh", static_cast<double>(c.problems)).add("n", static_cast<double>(c.n));
  line.add("d", static_cast<double>(c.d)).add("k", static_cast<double>(c.clusters));
  line.add("percent", 100 * c.density()).add("precision", name_of(c.precision));
  return line;
}

/// Fails the entry where results are wrong, or differ from run to run.
void check(const Case& c, Pass pass, Problem& problem, benchmark::State& state, JsonLine& line) {
  const PassArrays arrays = problem.arrays();
  uint64_t hashes[2] = {};
  for (uint64_t& hash : hashes) {
    poison_results(problem.stream(), arrays, pass);
    problem.run(pass);
    hash = hash_results(problem.stream(), arrays, pass);
  }
  const double worst = worst_error(problem.stream(), arrays, pass);
  tell(state, line, "worst_error", worst);
  STIPPLE_CHECK(hashes[0] == hashes[1], describe(c, pass), ": two runs give different bits");
  STIPPLE_CHECK(worst <= 1, describe(c, pass), ": rows are wrong, by ", worst,
                " times what rounding explains");
}

void report(benchmark::State& state, const Case& c, Pass pass, double ms, Problem& problem) {
  const double edges = problem.num_edges();
  const Cost least = cost(c, pass, edges);
  JsonLine line = line_of(c, pass);
  tell(state, line, "ms", ms);
  tell(state, line, "ps_per_pair", ms * 1e9 / c.pairs());
  tell(state, line, "gedge_s", edges / ms * 1e-6);
  tell(state, line, "tflop_s", least.flop / ms * 1e-9);
  tell(state, line, "gb_s", least.bytes / ms * 1e-6);
  if (const auto aim = target(c, pass)) {
    tell(state, line, "target_ms", aim->first_ms);
    tell(state, line, "goal_ms", aim->goal_ms);
  }
  if (is_checked(c, pass)) check(c, pass, problem, state, line);
  line.append_to_file();
}

void measure(benchmark::State& state, const Case& c, Pass pass) {
  JsonLine line = line_of(c, pass);
  or_say_why_not(state, line, [&] {
    Problem& problem = problem_of(c);
    problem.measure_ms(pass, 1);
    const double once = problem.measure_ms(pass, 1);
    const int calls =
        static_cast<int>(std::clamp(kMsPerRound / once, 1.0, double{kMostCallsPerRound}));
    std::vector<double> rounds;
    for (auto _ : state) {
      rounds.push_back(problem.measure_ms(pass, calls));
      state.SetIterationTime(rounds.back() * 1e-3);
    }
    std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
    report(state, c, pass, rounds[kRounds / 2], problem);
  });
}

void add(const Case& c, std::initializer_list<Pass> passes) {
  for (const Pass pass : passes) {
    benchmark::RegisterBenchmark(describe(c, pass).c_str(),
                                 [c, pass](benchmark::State& state) { measure(state, c, pass); })
        ->UseManualTime()
        ->Iterations(kRounds)
        ->Unit(benchmark::kMillisecond);
  }
}

void add_targets() {
  for (const int64_t d : {64, 32}) {
    for (const double percent : {25.0, 2.0}) {
      add({.d = d, .percent = percent}, {Pass::kForward, Pass::kBackwardSte, Pass::kSample});
    }
    add({.way = Way::kGather, .d = d, .percent = 1},
        {Pass::kForward, Pass::kBackwardSte, Pass::kSample});
  }
}

void add_shape(int64_t problems, int64_t n, int64_t d, Precision precision) {
  Case c{.problems = problems, .n = n, .d = d, .precision = precision};
  c.way = Way::kDense;
  add(c, {Pass::kForward, Pass::kBackward});
  for (const double percent : {0.5, 1.0, 2.0, 5.0, 10.0, 25.0}) {
    c.percent = percent;
    for (const Way way : {Way::kTiles, Way::kGather}) {
      c.way = way;
      c.clusters = 32;
      add(c, {Pass::kForward, Pass::kBackward, Pass::kBackwardSte, Pass::kSample});
      c.clusters = 128;
      add(c, {Pass::kBackwardSte, Pass::kSample});
    }
    c.way = Way::kCusparse;
    add(c, {Pass::kForward, Pass::kBackward, Pass::kBackwardSte});
  }
}

void add_sweep() {
  for (const int64_t d : {64, 32}) {
    for (const int64_t n : {4096, 2048, 1024}) {
      for (const int64_t problems : {256, 64}) add_shape(problems, n, d, Precision::kBf16);
    }
    add_shape(16, 16384, d, Precision::kBf16);
    add_shape(64, 2048, d, Precision::kFp32);
  }
}

// --- selections ----------------------------------------------------------------------------------

void add_smoke_targets() {
  for (const Way way : {Way::kTiles, Way::kGather, Way::kCusparse}) {
    const Case c{.way = way, .problems = 2, .n = 128, .d = 32, .clusters = 32};
    add(c, {Pass::kForward, Pass::kBackward, Pass::kBackwardSte, Pass::kSample});
  }
  add({.way = Way::kDense, .problems = 1, .n = 128, .d = 64}, {Pass::kForward, Pass::kBackward});
}

struct Flags {
  bool smoke = false;
  std::string only;
  bool require_all = false;
};

/// Takes our own flags out of the arguments.
Flags take_flags(int& argc, char** argv) {
  Flags flags;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--smoke") {
      flags.smoke = true;
    } else if (argument.starts_with("--only=")) {
      flags.only = argument.substr(7);
    } else if (argument == "--require-all") {
      flags.require_all = true;
    } else if (argument.starts_with("--jsonl=")) {
      settings().jsonl = argument.substr(8);
    } else if (argument.starts_with("--recipe=")) {
      settings().recipe = argument.substr(9);
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  return flags;
}

/// False: --only names nothing that there is.
bool add_entries(const Flags& flags) {
  const auto is_wanted = [&](const char* kind) { return flags.only.empty() || flags.only == kind; };
  const bool targets = is_wanted("targets"), ceilings = is_wanted("ceilings");
  const bool steps = is_wanted("steps"), sweep = is_wanted("sweep");
  if (targets) flags.smoke ? add_smoke_targets() : add_targets();
  if (ceilings) add_ceilings(flags.smoke);
  if (steps) flags.smoke ? add_smoke_steps() : add_steps();
  if (sweep && !flags.smoke) add_sweep();
  return targets || ceilings || steps || sweep;
}

}  // namespace
}  // namespace stipple::bench

int main(int argc, char** argv) {
  using namespace stipple;
  const bench::Flags flags = bench::take_flags(argc, argv);
  if (cuda::device_count() == 0) {
    std::fprintf(stderr, "bench_cuda: %s\n", cuda::why_no_device().c_str());
    return 3;
  }
  if (!bench::add_entries(flags)) {
    std::fprintf(stderr, "bench_cuda: --only=%s: targets, ceilings, steps or sweep\n",
                 flags.only.c_str());
    return 2;
  }
  benchmark::AddCustomContext("device", cuda::device_info(0).name);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return flags.require_all && bench::settings().failed ? 1 : 0;
}
