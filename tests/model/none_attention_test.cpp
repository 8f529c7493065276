// SPDX-License-Identifier: Apache-2.0
#include "model/attention/none/none_attention.h"

#include "tests/model/attention_run.h"
#include "tests/model/model_run.h"

namespace stipple::model {
namespace {

constexpr AttentionKind kNone = AttentionKind::kNone;

TEST(NoneAttention, GivesEveryTokenItsOwnValue) {
  test::AttentionRun run({.kind = kNone}, {});
  run.forward();
  run.backward();
  EXPECT_EQ(run.store.num_parameters(), 0);
  EXPECT_EQ(run.out.values(), run.v.values());
  EXPECT_EQ(run.dv.values(), run.dout.values());
  const test::Array<float> zeros(run.q.shape());
  EXPECT_EQ(run.dq.values(), zeros.values());
  EXPECT_EQ(run.dk.values(), zeros.values());
}

TEST(NoneAttention, AModelOfItKnowsNothingOfOtherTokens) {
  test::ModelCase c = test::small_case(kNone);
  c.task.fields.label = LabelKind::kTokenClass;
  test::ModelRun run(c);
  test::LeafArrays leaf(c.task, c.batch, c.length);
  run.forward(leaf, /*training=*/false);
  const std::vector<int32_t> before = run.prediction.values();
  for (int64_t b = 0; b < c.batch; ++b) leaf.ids[b * c.length] = leaf.ids[b * c.length] % 8 + 1;
  run.forward(leaf, /*training=*/false);
  for (int64_t i = 0; i < run.prediction.numel(); ++i) {
    if (i % c.length == 0) continue;
    EXPECT_EQ(run.prediction[i], before[static_cast<size_t>(i)]);
  }
}

}  // namespace
}  // namespace stipple::model
