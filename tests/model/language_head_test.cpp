// SPDX-License-Identifier: Apache-2.0
// The head by itself, against sums in double, with vocabularies large enough for several chunks.
#include "model/language_head.h"

#include <cmath>
#include <vector>

#include "model/planning_run.h"
#include "tests/support/devices.h"

namespace stipple::model {
namespace {

using test::Array;

constexpr int64_t kRows = 3, kWidth = 4;

struct Case {
  int64_t length = 50;
  int64_t vocabulary = 20000;  // chunks of 64 rows
  float logit_scale = 1.0f;
  int threads = 1;
  int64_t block = 1;
  bool is_training = true;
};

/// Runs on a device; everything comes back to the host.
class HeadRun {
 public:
  HeadRun(const Case& c, Device device) : case_(c), device_(device) {
    table = test::random_normal({c.vocabulary, kWidth}, 1);
    x = test::random_normal({kRows, c.length, kWidth}, 2);
    labels = Array<int32_t>({kRows, c.length});
    for (int64_t i = 0; i < labels.numel(); ++i) {
      const bool is_padding = i % 7 == 3;
      labels[i] = is_padding ? -1 : static_cast<int32_t>(i * 7919 % c.vocabulary);
    }
  }

  void run() {
    ParameterStore store;
    FactTable facts(1);
    const ParamId id = store.declare("table", table.shape(), Init::constant(0));
    const LanguageHead head(store, facts,
                            {.table = id, .logit_scale = case_.logit_scale, .block = case_.block});
    store.allocate(device_);
    test::DeviceMemory memory(device_, {.threads = case_.threads}, size_t{64} << 20);
    const View<float> grads = memory.zeros<float>({store.numel()});
    store.bind_grads(grads);
    upload(memory, store.value(id), table);
    const View<std::byte> block = memory.zeros<std::byte>({static_cast<int64_t>(facts.bytes())});
    Arena saved("saved", device_, size_t{16} << 20);
    Observer nobody;
    Context ctx{.stream = memory.stream(),
                .saved = saved,
                .scratch = memory.scratch(),
                .rng = {},
                .training = case_.is_training,
                .observer = nobody,
                .facts = {facts, block.data}};
    Input input;
    input.labels = memory.put(labels);
    input.loss_scale = memory.put(Array<float>({1}, {kScale}));
    const View<float> x_there = memory.put(x);
    const View<int32_t> chosen = memory.zeros<int32_t>(labels.shape());
    const View<float> dx_there = memory.zeros<float>(x.shape());
    LanguageHead::Saved of_forward;
    head.forward(ctx, input, x_there, chosen, of_forward);
    if (case_.is_training) head.backward(ctx, of_forward, dx_there);
    dx = memory.get(dx_there);
    dtable = memory.get(store.grad(id));
    prediction = memory.get(chosen);
    const Array<std::byte> told = memory.get(block);
    const Facts there(facts, const_cast<std::byte*>(told.values().data()));
    loss_sum = there.at<double>(facts.find(kLossSum))[0];
    count = there.at<int64_t>(facts.find(kLabels))[0];
    correct = there.at<int64_t>(facts.find("correct"))[0];
    const auto losses = there.at<double>(facts.find(kPlaceLoss)).span();
    const auto labels_there = there.at<int64_t>(facts.find(kPlaceLabels)).span();
    place_loss.assign(losses.begin(), losses.end());
    place_labels.assign(labels_there.begin(), labels_there.end());
  }

  static constexpr float kScale = 0.25f;
  Array<float> table, x, dx, dtable;
  Array<int32_t> labels, prediction;
  double loss_sum = 0;
  int64_t count = 0, correct = 0;
  std::vector<double> place_loss;
  std::vector<int64_t> place_labels;

 private:
  static void upload(test::DeviceMemory& memory, View<float> to, const Array<float>& from) {
    copy_bytes(memory.stream(), to.data, from.values().data(), to.bytes());
  }
  Case case_;
  Device device_;
};

/// The same by the formula, in double.
struct Expected {
  double loss_sum = 0;
  int64_t count = 0, correct = 0;
  Array<double> dx, dtable;

  Expected(const HeadRun& run, double scale) : dx(run.x.shape()), dtable(run.table.shape()) {
    const int64_t vocabulary = run.table.shape()[0];
    std::vector<double> p(static_cast<size_t>(vocabulary));
    for (int64_t row = 0; row < run.labels.numel(); ++row) {
      const int32_t label = run.labels[row];
      if (label < 0) continue;
      double sum = 0, best = -1e30, of_label = 0;
      int64_t first = 0;
      for (int64_t v = 0; v < vocabulary; ++v) {
        double logit = 0;
        for (int64_t c = 0; c < kWidth; ++c)
          logit += scale * static_cast<double>(run.x[row * kWidth + c]) *
                   static_cast<double>(run.table[v * kWidth + c]);
        if (logit > best) best = logit, first = v;
        if (v == label) of_label = logit;
        sum += p[static_cast<size_t>(v)] = std::exp(logit);
      }
      loss_sum += std::log(sum) - of_label;
      ++count;
      correct += first == label;
      for (int64_t v = 0; v < vocabulary; ++v) {
        const double d = static_cast<double>(HeadRun::kScale) * scale *
                         (p[static_cast<size_t>(v)] / sum - (v == label ? 1.0 : 0.0));
        for (int64_t c = 0; c < kWidth; ++c) {
          dx[row * kWidth + c] += d * static_cast<double>(run.table[v * kWidth + c]);
          dtable[v * kWidth + c] += d * static_cast<double>(run.x[row * kWidth + c]);
        }
      }
    }
  }
};

TEST(LanguageHead, GivesLossAndGradientsOfTheFormulaOverSeveralChunks) {
  for (const Device device : test::test_devices()) {
    SCOPED_TRACE(test::name_of(device));
    for (const float scale : {1.0f, 0.5f}) {
      HeadRun run(
          {.vocabulary = device.type == DeviceType::kCpu ? 20000 : 9001, .logit_scale = scale},
          device);
      run.run();
      const Expected expected(run, static_cast<double>(scale));
      EXPECT_NEAR(run.loss_sum, expected.loss_sum, 1e-5 * expected.loss_sum);
      EXPECT_EQ(run.count, expected.count);
      EXPECT_EQ(run.correct, expected.correct);
      test::expect_close(run.dx, expected.dx, 1e-4);
      test::expect_close(run.dtable, expected.dtable, 1e-4);
    }
  }
}

/// In evaluation, over several chunks: rows of chunks are told by their place in sequences.
TEST(LanguageHead, TellsTheLossByPlacesOfABlock) {
  constexpr int64_t kBlock = 16;
  HeadRun run({.block = kBlock, .is_training = false}, kCpuDevice);
  run.run();
  double sum = 0;
  for (int64_t place = 0; place < 8; ++place) {
    HeadRun only({.block = kBlock, .is_training = false}, kCpuDevice);
    for (int64_t i = 0; i < only.labels.numel(); ++i) {
      const int64_t in_block = i % 50 % kBlock;
      if (in_block / 2 != place) only.labels[i] = -1;
    }
    only.run();
    EXPECT_NEAR(run.place_loss[static_cast<size_t>(place)], only.loss_sum, 1e-5 * only.loss_sum);
    EXPECT_EQ(run.place_labels[static_cast<size_t>(place)], only.count);
    sum += only.loss_sum;
  }
  EXPECT_NEAR(sum, run.loss_sum, 1e-9 * sum);
  HeadRun training({.block = kBlock}, kCpuDevice);
  training.run();
  EXPECT_EQ(training.place_labels, std::vector<int64_t>(8));
}

TEST(LanguageHead, GivesTheSameBitsForAnyNumberOfThreads) {
  HeadRun one({}, kCpuDevice);
  one.run();
  for (const int threads : {2, 3}) {
    HeadRun many({.threads = threads}, kCpuDevice);
    many.run();
    EXPECT_EQ(many.loss_sum, one.loss_sum);
    EXPECT_EQ(many.dx.values(), one.dx.values());
    EXPECT_EQ(many.dtable.values(), one.dtable.values());
    EXPECT_EQ(many.prediction.values(), one.prediction.values());
  }
}

struct Bytes {
  size_t saved, scratch;
};

Bytes planned(int64_t length, int64_t vocabulary, bool training) {
  ParameterStore store;
  FactTable facts(1);
  const ParamId id = store.declare("table", {vocabulary, kWidth}, Init::constant(0));
  const LanguageHead head(store, facts, {.table = id});
  PlanningRun run(DeviceType::kCpu, {}, facts);
  store.allocate(run.stream().device());
  Context ctx = run.begin(training);
  Input input;
  input.labels.shape = {kRows, length};
  input.loss_scale.shape = {1};
  LanguageHead::Saved saved;
  head.forward(ctx, input, {nullptr, {kRows, length, kWidth}}, {nullptr, {kRows, length}}, saved);
  return {run.saved_bytes(), run.scratch_bytes()};
}

TEST(LanguageHead, HoldsLogitsOfAChunkOnly) {
  const int64_t vocabulary = 20000;
  const Bytes some = planned(1000, vocabulary, true), more = planned(5000, vocabulary, true);
  EXPECT_EQ(more.scratch, some.scratch);
  EXPECT_LT(some.scratch, size_t{8} << 20);
  EXPECT_EQ(more.saved - some.saved, size_t{kRows * 4000 * kWidth * sizeof(float)});
  EXPECT_EQ(planned(1000, vocabulary, false).saved, 0u);
}

}  // namespace
}  // namespace stipple::model
