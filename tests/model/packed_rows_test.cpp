// SPDX-License-Identifier: Apache-2.0
// Pieces that share a row give what each gives alone: loss and every gradient, for every attention that
// can be packed; every other one is refused by name.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/attention/graph.h"
#include "model/attention/registry.h"
#include "tests/model/model_run.h"
#include "tests/support/graph_statistics.h"

namespace stipple::model {
namespace {

using test::LeafArrays;
using test::ModelCase;
using test::ModelRun;

constexpr int64_t kVocabulary = 9;
/// Rows of pieces, by their lengths.
using Pieces = std::vector<std::vector<int64_t>>;
const Pieces kPackedRows{{5, 4, 3}, {7, 2}}, kEachAlone{{5}, {4}, {3}, {7}, {2}};

ModelCase case_of(AttentionKind kind, Positions positions, bool is_packed) {
  ModelCase c = test::small_case(kind);
  c.config.dropout = 0;
  c.config.norm = NormPlace::kPost;
  c.config.segments = 2;
  c.config.positions = positions;
  c.attention.dropout = 0;
  c.task.fields = {.label = LabelKind::kMaskedToken, .segments = 2, .is_packed = is_packed};
  c.task.vocab_size = c.task.num_classes = kVocabulary;
  c.batch = std::ssize(is_packed ? kPackedRows : kEachAlone);
  c.length = is_packed ? 12 : 7;
  return c;
}

/// The same tokens, however they are laid out: number t of all is a function of t.
LeafArrays leaf_of(const ModelCase& c, const Pieces& rows) {
  LeafArrays leaf(c.task, c.batch, c.length);
  for (int64_t i = 0; i < leaf.ids.numel(); ++i) {
    leaf.ids[i] = leaf.segments[i] = leaf.mask[i] = 0;
    leaf.labels[i] = leaf.row_labels[i] = -1;
    leaf.label_rows[i] = 0;
  }
  int64_t token = 0, labels = 0;
  for (int64_t r = 0; r < c.batch; ++r) {
    int64_t place = r * c.length;
    int32_t piece = 0;
    for (const int64_t length : rows[static_cast<size_t>(r)]) {
      for (int64_t n = 0; n < length; ++n, ++place, ++token) {
        leaf.ids[place] = static_cast<int32_t>(1 + token * 5 % (kVocabulary - 1));
        leaf.segments[place] = n >= 2 ? 1 : 0;
        leaf.mask[place] = 1;
        if (c.task.fields.is_packed) {
          leaf.pieces[place] = piece;
          leaf.positions[place] = static_cast<int32_t>(n);
        }
        if (token % 3 != 0) continue;
        leaf.labels[place] = static_cast<int32_t>(token * 7 % kVocabulary);
        leaf.label_rows[labels] = static_cast<int32_t>(place);
        leaf.row_labels[labels++] = leaf.labels[place];
      }
      ++piece;
    }
  }
  leaf.num_labels = labels;
  leaf.loss_scale[0] = 1.0f / static_cast<float>(labels);
  return leaf;
}

struct Result {
  double loss;
  std::vector<float> gradient;
};

Result result_of(AttentionKind kind, Positions positions, bool is_packed) {
  const ModelCase c = case_of(kind, positions, is_packed);
  ModelRun run(c);
  for (float& x : run.store.values().span()) x *= 3.0f;  // so that who sees whom matters
  const LeafArrays leaf = leaf_of(c, is_packed ? kPackedRows : kEachAlone);
  const double loss = run.forward(leaf);
  run.backward(leaf);
  return {loss, run.grad_values()};
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return worst;
}

TEST(PackedRows, GiveWhatEachOfTheirPiecesGivesAlone) {
  int able = 0;
  for (const AttentionRow& row : attentions()) {
    if (!row.traits(test::small_case(row.kind).attention).can_be_packed) continue;
    ++able;
    for (const Positions positions :
         {Positions::kLearned, Positions::kSinusoidal, Positions::kRotary}) {
      SCOPED_TRACE(std::string(row.name) + std::to_string(static_cast<int>(positions)));
      const Result alone = result_of(row.kind, positions, false);
      const Result packed = result_of(row.kind, positions, true);
      EXPECT_NEAR(packed.loss, alone.loss, 1e-6 * std::abs(alone.loss));
      ASSERT_EQ(packed.gradient.size(), alone.gradient.size());
      const float scale =
          std::abs(std::ranges::max(alone.gradient, {}, [](float x) { return std::abs(x); }));
      EXPECT_LE(largest_difference(packed.gradient, alone.gradient),
                1e-5 * static_cast<double>(scale));
    }
  }
  EXPECT_GE(able, 3);  // softmax, entmax, none
}

// Supports that are longer than what training keeps are looked for again, row by row.
TEST(PackedRows, TellGraphsThatStayWithinTheirPieces) {
  const Pieces rows{{100, 90}};
  ModelCase c = case_of(AttentionKind::kEntmax, Positions::kLearned, true);
  c.batch = 1;
  c.length = c.task.max_length = 192;
  ModelRun run(c);
  for (float& x : run.store.values().span()) x *= 0.01f;  // equal scores: all that a query may see
  GraphCollection told;
  run.graphs = &told;
  run.forward(leaf_of(c, rows), /*training=*/false);
  ASSERT_FALSE(told.graphs.empty());
  const AttentionGraph& graph = *told.graphs[0];
  const std::vector<double> mask = test::drawn(graph);
  const double edges = std::accumulate(mask.begin(), mask.end(), 0.0);
  EXPECT_EQ(edges, static_cast<double>(graph.heads()) * (100 * 100 + 90 * 90));
}

TEST(PackedRows, WouldGiveSomethingElseIfPiecesSawEachOther) {
  const ModelCase c = case_of(AttentionKind::kSoftmax, Positions::kLearned, true);
  ModelRun run(c);
  for (float& x : run.store.values().span()) x *= 3.0f;
  LeafArrays leaf = leaf_of(c, kPackedRows);
  const double apart = run.forward(leaf);
  leaf.pieces.fill(0);
  EXPECT_GT(std::abs(run.forward(leaf) - apart), 1e-4 * apart);
}

TEST(PackedRows, AreRefusedByAttentionsThatCannotKeepThemApart) {
  for (const AttentionRow& row : attentions()) {
    const ModelCase c = case_of(row.kind, Positions::kLearned, true);
    if (row.traits(c.attention).can_be_packed) continue;
    try {
      ModelRun run(c);
      FAIL() << row.name;
    } catch (const ConfigError& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("attention.kind=" + std::string(row.name)), std::string::npos);
      EXPECT_NE(message.find("those that can: softmax, none, entmax"), std::string::npos)
          << message;
    }
  }
}

}  // namespace
}  // namespace stipple::model
