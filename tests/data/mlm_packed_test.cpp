// SPDX-License-Identifier: Apache-2.0
// Rows that several texts share: which share one, and that each is what it is alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/mlm/packed.h"
#include "data/shards/tokenize.h"
#include "data/task_config.h"
#include "data/wordpiece/configured.h"
#include "tests/data/scratch_folder.h"

namespace stipple::data::mlm {
namespace {

std::vector<std::vector<int64_t>> lengths_of(const Rows& rows,
                                             const std::vector<int32_t>& lengths) {
  std::vector<std::vector<int64_t>> all;
  for (size_t r = 0; r + 1 < rows.begins.size(); ++r) {
    all.emplace_back();
    for (int64_t k = rows.begins[r]; k < rows.begins[r + 1]; ++k)
      all.back().push_back(lengths[static_cast<size_t>(rows.members[static_cast<size_t>(k)])]);
  }
  return all;
}

TEST(BestFit, TheLongestGoesFirstIntoTheFullestRowThatHasRoom) {
  const std::vector<int32_t> lengths{3, 7, 2, 5, 10, 4, 3};
  EXPECT_EQ(lengths_of(best_fit(lengths, 10), lengths),
            (std::vector<std::vector<int64_t>>{{10}, {7, 3}, {5, 4}, {3, 2}}));
  EXPECT_EQ(best_fit({}, 10).begins, (std::vector<int64_t>{0}));
  // Equal ones in order, so that rows are the same everywhere.
  EXPECT_EQ(best_fit({5, 5, 5}, 10).members, (std::vector<int64_t>{0, 1, 2}));
}

TEST(BestFit, PutsEveryExampleIntoOneRowAndLeavesLittleEmpty) {
  std::vector<int32_t> lengths;
  for (int i = 0; i < 20'000; ++i) lengths.push_back(3 + i * 7919 % 126);
  const Rows rows = best_fit(lengths, 128);
  std::vector<int64_t> members = rows.members, all(lengths.size());
  std::ranges::sort(members);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(members, all);
  for (const auto& row : lengths_of(rows, lengths))
    EXPECT_LE(std::accumulate(row.begin(), row.end(), int64_t{0}), 128);
  const auto tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  EXPECT_GT(static_cast<double>(tokens), 0.97 * 128 * static_cast<double>(rows.begins.size() - 1));
}

struct Shard {
  Shard() {
    std::string vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", text;
    for (int i = 0; i < 40; ++i) vocabulary += "w" + std::to_string(i) + "\n";
    for (int document = 0; document < 300; ++document) {
      for (int word = 0; word <= document % 19; ++word)
        text += "w" + std::to_string((document + word * word) % 40) + " ";
      text += "\n\n";
    }
    test::write_file(folder / "vocab.txt", vocabulary);
    test::write_file(folder / "x.txt", text);
    config.task = TaskKind::kMlm;
    config.vocab = folder / "vocab.txt";
    config.max_length = 16;
    config.mlm.shards = folder / "x";
    config.mlm.pack = false;
    shards::tokenize(wordpiece::configured_tokenizer(config), {folder / "x.txt"}, folder / "x", {});
  }
  std::unique_ptr<Task> task(bool share_rows) {
    config.mlm.share_rows = share_rows;
    return make_task(config, 1);
  }
  test::ScratchFolder folder;
  DataConfig config;
};

struct Shown {
  std::vector<int32_t> ids, labels;
  auto operator<=>(const Shown&) const = default;
};

TEST(PackedDataset, ShowsEveryTextAsItIsAlone) {
  Shard shard;
  const auto alone = shard.task(false)->open(Split::kTrain);
  const auto task = shard.task(true);
  EXPECT_TRUE(task->info().fields.is_packed);
  const auto rows = task->open(Split::kTrain);
  EXPECT_LT(rows->size(), alone->size());
  EXPECT_EQ(rows->intake().tokens, alone->intake().tokens);
  EXPECT_NE(rows->fingerprint(), alone->fingerprint());
  std::multiset<Shown> expected, shown;
  constexpr uint64_t kEpoch = 3;
  for (int64_t i = 0; i < alone->size(); ++i) {
    const auto n = static_cast<size_t>(alone->length({i, kEpoch}, 0));
    Shown text{std::vector<int32_t>(n), std::vector<int32_t>(n)};
    alone->get({i, kEpoch}, 0, {.ids = text.ids, .labels = text.labels});
    expected.insert(text);
  }
  for (int64_t r = 0; r < rows->size(); ++r) {
    const Draw draw{r, kEpoch};
    const auto n = static_cast<size_t>(rows->length(draw, 0));
    EXPECT_LE(n, 16u);
    std::vector<int32_t> ids(n), labels(n), pieces(n, -1), positions(n, -1);
    rows->get(draw, 0, {.ids = ids, .pieces = pieces, .positions = positions, .labels = labels});
    EXPECT_EQ(rows->num_labels(draw),
              std::ranges::count_if(labels, [](int32_t label) { return label >= 0; }));
    for (size_t begin = 0; begin < n;) {
      size_t end = begin;
      for (; end < n && pieces[end] == pieces[begin]; ++end)
        EXPECT_EQ(positions[end], static_cast<int32_t>(end - begin));
      EXPECT_EQ(pieces[begin], begin == 0 ? 0 : pieces[begin - 1] + 1);
      const auto part = [&](const std::vector<int32_t>& all) {
        return std::vector<int32_t>(all.begin() + static_cast<std::ptrdiff_t>(begin),
                                    all.begin() + static_cast<std::ptrdiff_t>(end));
      };
      shown.insert({part(ids), part(labels)});
      begin = end;
    }
  }
  EXPECT_EQ(shown, expected);
}

TEST(PackedDataset, OfWhatCannotSharesRowsIsRefused) {
  Shard shard;
  const auto says = [&] {
    try {
      shard.task(true);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_EQ(says(), "nothing");
  shard.config.mlm.pack = true;
  EXPECT_NE(says().find("use data.mlm.pack=false"), std::string::npos);
  shard.config.mlm.pack = false;
  shard.config.mlm.pairs.kind = PairKind::kOrder;
  EXPECT_NE(says().find("data.mlm.pairs"), std::string::npos);
  shard.config.mlm.pairs.kind = PairKind::kNone;
  shard.config.mlm.shards += ":1," + shard.config.mlm.shards + ":2";
  EXPECT_NE(says().find("weights"), std::string::npos);
}

}  // namespace
}  // namespace stipple::data::mlm
