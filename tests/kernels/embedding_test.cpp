// SPDX-License-Identifier: Apache-2.0
#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>

#include "tests/support/arrays.h"
#include "tests/support/devices.h"
#include "tests/support/op_checks.h"

namespace stipple::kernels {
namespace {

using test::Array;
using test::DeviceMemory;
using test::name_of;
using test::random_normal;
using test::test_devices;

struct EmbeddingOperands {
  Array<float> table, positions, dy, y, dtable, dpositions;
  Array<int32_t> ids;
  EmbeddingOperands(int64_t batch, int64_t tokens, int64_t channels, int64_t vocabulary)
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
  EmbeddingBackward backward(Arena& scratch) {
    return {.dtable = dtable, .dpositions = dpositions, .dy = dy, .ids = ids, .scratch = &scratch};
  }

  void look_up(Device device) {
    DeviceMemory memory(device);
    const View<float> to = memory.fresh<float>(y.shape());
    embedding(memory.stream(), {.y = to,
                                .ids = memory.put(ids),
                                .table = memory.put(table),
                                .positions = memory.put(positions)});
    y = memory.get(to);
  }
  void add_gradients(Device device) {
    DeviceMemory memory(device);
    const View<float> word = memory.put(dtable), position = memory.put(dpositions);
    embedding_backward(memory.stream(), {.dtable = word,
                                         .dpositions = position,
                                         .dy = memory.put(dy),
                                         .ids = memory.put(ids),
                                         .scratch = &memory.scratch()});
    dtable = memory.get(word), dpositions = memory.get(position);
  }
};

TEST(Embedding, AddsTheTokensRowAndThePositionsRow) {
  for (Device device : test_devices()) {
    for (int64_t channels : {1, 13, 64}) {
      EmbeddingOperands t(3, 131, channels, 7);
      t.look_up(device);
      for (int64_t i = 0; i < t.y.numel(); ++i) {
        const int64_t c = i % channels, row = i / channels;
        ASSERT_EQ(t.y[i],
                  t.table[t.ids[row] * channels + c] + t.positions[row % 131 * channels + c]);
      }
    }
  }
}

TEST(Embedding, ServesModelsWithoutPositionsOfItsOwn) {
  for (Device device : test_devices()) {
    for (int64_t channels : {1, 13, 64}) {
      EmbeddingOperands t(3, 131, channels, 7), with_positions = t;
      DeviceMemory memory(device);
      const View<float> y = memory.fresh<float>(t.y.shape()), dtable = memory.put(t.dtable);
      const View<const int32_t> ids = memory.put(t.ids);
      embedding(memory.stream(),
                {.y = y, .ids = ids, .table = memory.put(t.table), .positions = {}});
      embedding_backward(memory.stream(), {.dtable = dtable,
                                           .dpositions = {},
                                           .dy = memory.put(t.dy),
                                           .ids = ids,
                                           .scratch = &memory.scratch()});
      const Array<float> words = memory.get(y);
      for (int64_t i = 0; i < words.numel(); ++i) {
        ASSERT_EQ(words[i], t.table[t.ids[i / channels] * channels + i % channels]);
      }
      with_positions.add_gradients(device);
      EXPECT_EQ(memory.get(dtable).values(), with_positions.dtable.values());
    }
  }
}

TEST(Embedding, AddsTheSegmentsRow) {
  for (Device device : test_devices()) {
    for (int64_t channels : {1, 13, 64}) {
      EmbeddingOperands t(3, 131, channels, 7);
      const Array<float> segment_table = random_normal({2, channels}, 7);
      Array<int32_t> segments({3, 131});
      for (int64_t i = 0; i < segments.numel(); ++i) segments[i] = t.ids[i] % 2;
      DeviceMemory memory(device);
      const View<float> y = memory.fresh<float>(t.y.shape());
      embedding(memory.stream(), {.y = y,
                                  .ids = memory.put(t.ids),
                                  .table = memory.put(t.table),
                                  .positions = memory.put(t.positions),
                                  .segments = memory.put(segments),
                                  .segment_table = memory.put(segment_table)});
      t.look_up(device);
      const Array<float> with_segments = memory.get(y);
      for (int64_t i = 0; i < t.y.numel(); ++i) {
        const int64_t c = i % channels;
        ASSERT_EQ(with_segments[i], t.y[i] + segment_table[segments[i / channels] * channels + c]);
      }
    }
  }
}

TEST(Embedding, BackwardAddsInTheOrderOfTheTokens) {
  for (int64_t channels : {1, 13, 64}) {
    EmbeddingOperands t(3, 131, channels, 7);
    Array<float> dtable = t.dtable, dpositions = t.dpositions;
    for (int64_t i = 0; i < t.dy.numel(); ++i) {
      const int64_t c = i % channels, row = i / channels;
      dtable[t.ids[row] * channels + c] += t.dy[i];
      dpositions[row % 131 * channels + c] += t.dy[i];
    }
    t.add_gradients(kCpuDevice);
    EXPECT_EQ(t.dtable.values(), dtable.values());
    EXPECT_EQ(t.dpositions.values(), dpositions.values());
  }
}

/// What all tokens add, in double.
Array<double> oracle(const EmbeddingOperands& t) {
  const int64_t channels = t.dy.shape()[2];
  Array<double> dtable(t.dtable.shape());
  for (int64_t i = 0; i < dtable.numel(); ++i) dtable[i] = t.dtable[i];
  for (int64_t i = 0; i < t.dy.numel(); ++i) {
    dtable[t.ids[i / channels] * channels + i % channels] += t.dy[i];
  }
  return dtable;
}

TEST(Embedding, BackwardMatchesOracleForFewAndManyIds) {
  // Batch, tokens, channels, vocabulary: ids with none, few, and many runs of tokens; several
  // chunks; more ids than threads; rows longer than a block.
  using Sizes = std::array<int64_t, 4>;
  for (const auto [batch, tokens, channels, vocabulary] : {Sizes{1, 1, 1, 1},
                                                           {3, 131, 13, 7},
                                                           {2, 1100, 4, 3},
                                                           {2, 1100, 8, 1500},
                                                           {1, 70, 1036, 2}}) {
    for (Device device : test_devices()) {
      SCOPED_TRACE(testing::Message()
                   << name_of(device) << ", " << tokens << " tokens, " << vocabulary << " ids");
      EmbeddingOperands t(batch, tokens, channels, vocabulary), positions = t;
      const Array<double> expected = oracle(t);
      t.add_gradients(device);
      test::expect_close(t.dtable, expected, 1e-6);
      positions.add_gradients(kCpuDevice);
      EXPECT_EQ(t.dpositions.values(), positions.dpositions.values());
    }
  }
}

TEST(Embedding, BackwardLeavesIdsWithoutTokensAlone) {
  for (Device device : test_devices()) {
    EmbeddingOperands t(2, 40, 4, 50);
    std::fill(t.ids.values().begin(), t.ids.values().end(), 17);
    Array<float> before = t.dtable;
    t.add_gradients(device);
    EXPECT_NE(t.dtable[17 * 4], before[17 * 4]);
    std::copy_n(&t.dtable[17 * 4], 4, &before[17 * 4]);
    EXPECT_EQ(t.dtable.values(), before.values());
  }
}

TEST(Embedding, BackwardRepeatsItsBits) {
  for (Device device : test_devices()) {
    EmbeddingOperands first(2, 300, 12, 3), second = first;
    first.add_gradients(device);
    second.add_gradients(device);
    EXPECT_EQ(first.dtable.values(), second.dtable.values());
    EXPECT_EQ(first.dpositions.values(), second.dpositions.values());
  }
}

TEST(Embedding, BackwardPlansTheScratchOfItsDevice) {
  EmbeddingOperands t(2, 300, 12, 3);
  for (Device device : test_devices()) {
    Arena planned("scratch", meta_device(device.type));
    embedding_backward(Stream(meta_device(device.type)), t.backward(planned));
    EXPECT_EQ(planned.used(), 0u);
    DeviceMemory memory(device);
    Arena exact("scratch", device, planned.peak());
    embedding_backward(memory.stream(), {.dtable = memory.put(t.dtable),
                                         .dpositions = memory.put(t.dpositions),
                                         .dy = memory.put(t.dy),
                                         .ids = memory.put(t.ids),
                                         .scratch = &exact});
    memory.stream().synchronize();
    EXPECT_EQ(exact.peak(), planned.peak());
  }
}

TEST(Embedding, BackwardIsTheDerivative) {
  EmbeddingOperands t(2, 3, 5, 4);
  t.dtable.fill(0.0f);
  t.dpositions.fill(0.0f);
  t.add_gradients(kCpuDevice);
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
  test::expect_same_bits_for_any_threads([](const Stream& stream, Arena& scratch) {
    EmbeddingOperands t(3, 401, 70, 5);
    embedding(stream, t.forward());
    embedding_backward(stream, t.backward(scratch));
    std::vector<float> all = t.y.values();
    for (const auto* part : {&t.dtable, &t.dpositions}) {
      all.insert(all.end(), part->values().begin(), part->values().end());
    }
    return all;
  });
}

TEST(Embedding, RefusesIdsOutsideTheTable) {
  for (int32_t bad : {-1, 4}) {
    EmbeddingOperands t(2, 200, 5, 4);
    t.ids[399] = bad;
    const Stream stream(kCpuDevice, {.threads = 2});
    Arena scratch("scratch", kCpuDevice, 0);
    EXPECT_THROW(embedding(stream, t.forward()), Error);
    EXPECT_THROW(embedding_backward(stream, t.backward(scratch)), Error);
    EmbeddingOperands good(2, 200, 5, 4);
    Embedding with_segments = good.forward();
    with_segments.segments = t.ids;
    with_segments.segment_table = t.table;
    EXPECT_THROW(embedding(stream, with_segments), Error);
  }
}

TEST(Embedding, RefusesShapesThatDoNotFit) {
  EmbeddingOperands t(2, 3, 5, 4);
  Array<float> short_positions({2, 5}), narrow({4, 3});
  Embedding forward = t.forward();
  forward.positions = short_positions;
  EXPECT_THROW(embedding(Stream(kMetaDevice), forward), ShapeError);
  forward = t.forward();
  forward.segments = t.ids;
  EXPECT_THROW(embedding(Stream(kMetaDevice), forward), ShapeError) << "without a table";
  forward.segment_table = narrow;
  EXPECT_THROW(embedding(Stream(kMetaDevice), forward), ShapeError);
  Arena scratch("scratch", kCpuDevice, 0);
  EmbeddingBackward backward = t.backward(scratch);
  backward.scratch = nullptr;
  EXPECT_THROW(embedding_backward(Stream(kCpuDevice), backward), Error);
  backward.dtable = narrow;
  EXPECT_THROW(embedding_backward(Stream(kCpuDevice), backward), ShapeError);
}

}  // namespace
}  // namespace stipple::kernels
