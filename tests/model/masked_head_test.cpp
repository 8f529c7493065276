// SPDX-License-Identifier: Apache-2.0
// The head by itself, with a vocabulary large enough for several chunks. The gradients of all its
// parameters are checked in model_gradient_test.cpp.
#include "model/masked_head.h"

#include <cmath>
#include <optional>

#include "model/planning_run.h"
#include "tests/support/devices.h"

namespace stipple::model {
namespace {

using test::Array;

constexpr int64_t kMaskedRows = 2, kMaskedLength = 90, kMaskedWidth = 4,
                  kMaskedVocabulary = 20000;  // chunks of 64 rows
constexpr float kScale = 0.25f;

/// Runs on a device; everything comes back to the host.
struct MaskedRun {
  explicit MaskedRun(Device device, bool knows_labels = true, int threads = 1) {
    ParameterStore store;
    FactTable facts(1);
    const ParamId table =
        store.declare("table", {kMaskedVocabulary, kMaskedWidth}, Init::normal(1));
    const MaskedHead head(store, facts, "head", {.width = kMaskedWidth, .table = table});
    store.allocate(device);
    test::DeviceMemory memory(device, {.threads = threads}, size_t{64} << 20);
    store.initialize(memory.stream(), 1);
    const View<float> grads = memory.zeros<float>({store.numel()});
    store.bind_grads(grads);
    const View<std::byte> block = memory.zeros<std::byte>({static_cast<int64_t>(facts.bytes())});
    Arena saved("saved", device, size_t{16} << 20);
    Observer nobody;
    Context ctx{.stream = memory.stream(),
                .saved = saved,
                .scratch = memory.scratch(),
                .rng = {},
                .observer = nobody,
                .facts = {facts, block.data}};
    Input input;
    input.label_rows = memory.put(label_rows);
    input.row_labels = memory.put(row_labels);
    input.loss_scale = memory.put(Array<float>({1}, {kScale}));
    if (knows_labels) input.num_labels = kLabelled;
    const View<float> x_there = memory.put(x);
    MaskedHead::Saved kept;
    head.forward(ctx, input, x_there, kept);
    rows = kept.rows.numel();
    const View<float> dx_there = memory.zeros<float>(x.shape());
    head.backward(ctx, kept, dx_there);
    dx = memory.get(dx_there);
    gradients = memory.get(grads);
    const Array<std::byte> told = memory.get(block);
    const Facts there(facts, const_cast<std::byte*>(told.values().data()));
    loss_sum = there.at<double>(facts.find(kLossSum))[0];
    count = there.at<int64_t>(facts.find(kLabels))[0];
    ctx.training = false;
    const View<float> logits_there =
        memory.zeros<float>({kMaskedRows * kMaskedLength, kMaskedVocabulary});
    head.logits(ctx, x_there.reshape({kMaskedRows * kMaskedLength, kMaskedWidth}), logits_there);
    logits = memory.get(logits_there);
  }

  static constexpr int64_t kLabelled = kMaskedRows * kMaskedLength / 2;
  Array<float> x = test::random_normal({kMaskedRows, kMaskedLength, kMaskedWidth}, 2), dx,
               gradients, logits;
  Array<int32_t> label_rows = listed(0, [](int64_t i) { return 2 * i + 1; });
  Array<int32_t> row_labels = listed(-1, [](int64_t i) { return i * 7919 % kMaskedVocabulary; });
  int64_t rows = 0, count = 0;
  double loss_sum = 0;

 private:
  template <class Make>
  static Array<int32_t> listed(int32_t none, const Make& make) {
    Array<int32_t> list({kMaskedRows * kMaskedLength});
    for (int64_t i = 0; i < list.numel(); ++i)
      list[i] = i < kLabelled ? static_cast<int32_t>(make(i)) : none;
    return list;
  }
};

TEST(MaskedHead, TellsTheLossOfTheLabelledTokensAndOfNoOthers) {
  const MaskedRun run(kCpuDevice);
  double expected = 0;
  for (int64_t i = 0; i < MaskedRun::kLabelled; ++i) {
    const float* row = run.logits.values().data() + (2 * i + 1) * kMaskedVocabulary;
    double sum = 0;
    for (int64_t v = 0; v < kMaskedVocabulary; ++v) sum += std::exp(static_cast<double>(row[v]));
    expected += std::log(sum) - static_cast<double>(row[run.row_labels[i]]);
  }
  EXPECT_EQ(run.count, MaskedRun::kLabelled);
  EXPECT_NEAR(run.loss_sum, expected, 1e-5 * expected);
  for (int64_t i = 0; i < run.dx.numel(); ++i) {
    const bool is_labelled = i / kMaskedWidth % 2 == 1;
    EXPECT_EQ(run.dx[i] != 0.0f, is_labelled) << i;
  }
}

TEST(MaskedHead, ComputesLabelledRowsOnlyWhereTheirNumberIsKnownAndElseTheSame) {
  for (const Device device : test::test_devices()) {
    SCOPED_TRACE(test::name_of(device));
    const MaskedRun known(device), unknown(device, /*knows_labels=*/false);
    EXPECT_EQ(known.rows, MaskedRun::kLabelled);
    EXPECT_EQ(unknown.rows, kMaskedRows * kMaskedLength);
    EXPECT_EQ(unknown.count, known.count);
    EXPECT_NEAR(unknown.loss_sum, known.loss_sum, 1e-6 * known.loss_sum);
    test::expect_close(unknown.dx, known.dx, 1e-5);
    test::expect_close(unknown.gradients, known.gradients, 1e-5);
    const MaskedRun host(kCpuDevice);
    test::expect_close(known.dx, host.dx, 1e-4);
    test::expect_close(known.gradients, host.gradients, 1e-4);
  }
}

TEST(MaskedHead, GivesTheSameBitsForAnyNumberOfThreads) {
  const MaskedRun one(kCpuDevice), three(kCpuDevice, true, 3);
  EXPECT_EQ(three.loss_sum, one.loss_sum);
  EXPECT_EQ(three.dx.values(), one.dx.values());
  EXPECT_EQ(three.gradients.values(), one.gradients.values());
}

TEST(MaskedHead, PlansForALabelAtEveryToken) {
  ParameterStore store;
  FactTable facts(1);
  const ParamId table =
      store.declare("table", {kMaskedVocabulary, kMaskedWidth}, Init::constant(0));
  const MaskedHead head(store, facts, "head", {.width = kMaskedWidth, .table = table});
  PlanningRun run(DeviceType::kCpu, {}, facts);
  store.allocate(run.stream().device());
  Context ctx = run.begin(/*training=*/true);
  Input input;
  input.label_rows.shape = input.row_labels.shape = {kMaskedRows * kMaskedLength};
  input.loss_scale.shape = {1};
  MaskedHead::Saved saved;
  head.forward(ctx, input, {nullptr, {kMaskedRows, kMaskedLength, kMaskedWidth}}, saved);
  EXPECT_EQ(saved.rows.numel(), kMaskedRows * kMaskedLength);
  EXPECT_LT(run.scratch_bytes(), size_t{8} << 20);  // logits of a chunk
}

}  // namespace
}  // namespace stipple::model
