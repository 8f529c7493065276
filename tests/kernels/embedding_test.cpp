// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/support/arrays.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::random_normal;

struct Operands {
  Array<float> table, positions, dy, y, dtable, dpositions;
  Array<int32_t> ids;
  Operands(int64_t batch, int64_t tokens, int64_t channels, int64_t vocabulary)
      : table(random_normal({vocabulary, channels}, 1)),
        positions(random_normal({tokens + 2, channels}, 2)),
        dy(random_normal({batch, tokens, channels}, 3)),
        y({batch, tokens, channels}),
        dtable(random_normal({vocabulary, channels}, 4)),
        dpositions(random_normal({tokens + 2, channels}, 5)),
        ids({batch, tokens}) {
    std::mt19937 generator(6);
    std::uniform_int_distribution<int32_t> id(0, static_cast<int32_t>(vocabulary) - 1);
    for (int32_t& value : ids.values()) value = id(generator);
  }
  Embedding forward() { return {.y = y, .ids = ids, .table = table, .positions = positions}; }
  EmbeddingBackward backward() {
    return {.dtable = dtable, .dpositions = dpositions, .dy = dy, .ids = ids};
  }
};

TEST(Embedding, AddsTheTokensRowAndThePositionsRow) {
  for (int64_t channels : {1, 13, 64}) {
    Operands t(3, 131, channels, 7);
    embedding(Stream(kCpuDevice), t.forward());
    for (int64_t i = 0; i < t.y.numel(); ++i) {
      const int64_t c = i % channels, row = i / channels;
      ASSERT_EQ(t.y[i], t.table[t.ids[row] * channels + c] + t.positions[row % 131 * channels + c]);
    }
  }
}

TEST(Embedding, BackwardAddsInTheOrderOfTheTokens) {
  for (int64_t channels : {1, 13, 64}) {
    Operands t(3, 131, channels, 7);
    Array<float> dtable = t.dtable, dpositions = t.dpositions;
    for (int64_t i = 0; i < t.dy.numel(); ++i) {
      const int64_t c = i % channels, row = i / channels;
      dtable[t.ids[row] * channels + c] += t.dy[i];
      dpositions[row % 131 * channels + c] += t.dy[i];
    }
    embedding_backward(Stream(kCpuDevice), t.backward());
    EXPECT_EQ(t.dtable.values(), dtable.values());
    EXPECT_EQ(t.dpositions.values(), dpositions.values());
  }
}

TEST(Embedding, BackwardIsTheDerivative) {
  Operands t(2, 3, 5, 4);
  t.dtable.fill(0.0f);
  t.dpositions.fill(0.0f);
  embedding_backward(Stream(kCpuDevice), t.backward());
  const auto loss = [&](const std::vector<double>& table, const std::vector<double>& positions) {
    double sum = 0;
    for (int64_t i = 0; i < t.dy.numel(); ++i) {
      const auto word = static_cast<size_t>(t.ids[i / 5] * 5 + i % 5);
      const auto position = static_cast<size_t>(i / 5 % 3 * 5 + i % 5);
      sum += t.dy[i] * (table[word] + positions[position]);
    }
    return sum;
  };
  test::expect_close(
      t.dtable,
      test::central_differences(
          t.table, [&](const auto& at) { return loss(at, test::to_double(t.positions)); }),
      1e-6);
  test::expect_close(
      t.dpositions,
      test::central_differences(t.positions,
                                [&](const auto& at) { return loss(test::to_double(t.table), at); }),
      1e-6);
}

TEST(Embedding, HasTheSameBitsForAnyThreads) {
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena&) {
    Operands t(3, 401, 70, 5);
    embedding(stream, t.forward());
    embedding_backward(stream, t.backward());
    std::vector<float> all = t.y.values();
    for (const auto* part : {&t.dtable, &t.dpositions}) {
      all.insert(all.end(), part->values().begin(), part->values().end());
    }
    return all;
  });
}

TEST(Embedding, RefusesIdsOutsideTheTable) {
  for (int32_t bad : {-1, 4}) {
    Operands t(2, 200, 5, 4);
    t.ids[399] = bad;
    const Stream stream(kCpuDevice, {.threads = 2});
    EXPECT_THROW(embedding(stream, t.forward()), Error);
    EXPECT_THROW(embedding_backward(stream, t.backward()), Error);
  }
}

TEST(Embedding, RefusesShapesThatDoNotFit) {
  Operands t(2, 3, 5, 4);
  Array<float> short_positions({2, 5}), narrow({4, 3});
  Embedding forward = t.forward();
  forward.positions = short_positions;
  EXPECT_THROW(embedding(Stream(kMetaDevice), forward), ShapeError);
  EmbeddingBackward backward = t.backward();
  backward.dtable = narrow;
  EXPECT_THROW(embedding_backward(Stream(kCpuDevice), backward), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
