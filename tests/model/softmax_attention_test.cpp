// SPDX-License-Identifier: Apache-2.0
#include "model/attention/softmax/softmax_attention.h"

#include "tests/model/attention_reference.h"

namespace stipple::model {
namespace {

using test::AttentionCase;
using test::AttentionReference;
using test::AttentionRun;
using test::differences;
using test::Doubles;
using test::expect_gradient;
using test::pad_second_example;
using test::Tensors;
using test::to_doubles;

AttentionConfig softmax_config(double dropout) {
  return {.kind = AttentionKind::kSoftmax, .dropout = dropout};
}

Tensors tensors(const AttentionRun& run) {
  return {to_doubles(run.q.values()), to_doubles(run.k.values()), to_doubles(run.v.values())};
}

void check_gradients(double dropout, bool is_causal = false) {
  const AttentionCase c{.seed = 21, .is_causal = is_causal};
  AttentionRun run(softmax_config(dropout), c);
  pad_second_example(run);
  run.forward();
  run.backward();
  const AttentionReference reference(run, c, dropout, AttentionRun::kLayer);
  Tensors t = tensors(run);
  expect_gradient(run.out.values(), reference.output(t), 1e-5, "out");
  const auto loss = [&] { return reference.loss(t); };
  expect_gradient(run.dq.values(), differences(t.q, loss), 1e-4, "dq");
  expect_gradient(run.dk.values(), differences(t.k, loss), 1e-4, "dk");
  expect_gradient(run.dv.values(), differences(t.v, loss), 1e-4, "dv");
}

TEST(SoftmaxAttention, AgreesWithFiniteDifferencesUnderPadding) { check_gradients(0.0); }

TEST(SoftmaxAttention, AgreesWithFiniteDifferencesUnderDropout) { check_gradients(0.3); }

TEST(SoftmaxAttention, AgreesWithFiniteDifferencesWhereItIsCausal) {
  for (const double dropout : {0.0, 0.3}) check_gradients(dropout, /*is_causal=*/true);
}

TEST(SoftmaxAttention, EvaluationDropsNothing) {
  const AttentionCase c{};
  AttentionRun run(softmax_config(0.5), c);
  run.forward(/*training=*/false);
  const AttentionReference reference(run, c, 0.0, AttentionRun::kLayer);
  expect_gradient(run.out.values(), reference.output(tensors(run)), 1e-5, "out");
}

TEST(SoftmaxAttention, KeepsTheBitsOfDropoutUpToSomeLength) {
  const auto kept = [](double dropout, int64_t length, bool training) {
    AttentionRun run(softmax_config(dropout),
                     {.batch = 1, .heads = 1, .length = length, .head_dim = 1});
    run.forward(training);
    const auto& saved = static_cast<const SoftmaxAttention::Saved&>(*run.saved);
    return saved.kept.empty() ? 0 : saved.kept.bytes();
  };
  constexpr int64_t kMost = SoftmaxAttention::kMostKeptKeys;
  EXPECT_EQ(kept(0.1, kMost, true), size_t{kMost * kMost / 8});
  EXPECT_EQ(kept(0.1, kMost + 1, true), 0u);
  EXPECT_EQ(kept(0.1, 7, false), 0u);
  EXPECT_EQ(kept(0.0, 7, true), 0u);
}

TEST(SoftmaxAttention, ASequenceOfPaddingGivesZerosAndNoGradient) {
  AttentionRun run(softmax_config(0.1), {});
  for (int64_t j = 0; j < run.mask.shape()[1]; ++j) run.mask[j] = 0;
  run.forward();
  run.backward();
  for (int64_t i = 0; i < run.out.numel() / 2; ++i) {
    ASSERT_EQ(run.out[i], 0.0f);
    ASSERT_EQ(run.dq[i], 0.0f);
    ASSERT_EQ(run.dk[i], 0.0f);
    ASSERT_EQ(run.dv[i], 0.0f);
  }
}

TEST(SoftmaxAttention, HasNoParameters) {
  AttentionRun run(softmax_config(0.1), {});
  EXPECT_EQ(run.store.num_parameters(), 0);
}

TEST(SoftmaxAttention, RefusesArraysThatDoNotFit) {
  AttentionRun run(softmax_config(0.1), {});
  run.k = test::random_normal({2, 2, 6, 4}, 1);
  EXPECT_THROW(run.forward(), ShapeError);
}

}  // namespace
}  // namespace stipple::model
