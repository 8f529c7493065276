// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/fact_sums.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "comm/threads/thread_group.h"

namespace stipple::trainer {
namespace {

using model::FactId;

constexpr int64_t kLeaves = 8;
constexpr int64_t kLayers = 2;

struct Table {
  model::FactTable table{kLayers};
  FactId edges = table.declare_per_layer<int64_t>("edges", 3);
  FactId pairs = table.declare_per_layer<int64_t>("pairs", 3);
  FactId cells = table.declare_per_layer<float>("cells", 3, model::Unite::kSame);
  FactId lost = table.declare_per_layer<int32_t>("lost");
  FactId loss = table.find(model::kLossSum);

  Table() {
    table.show({.name = "density", .title = "", .over = edges, .under = pairs, .has_total = true});
    table.show({.name = "cells", .title = "", .over = cells});
    table.require_zero({.fact = lost, .message_before = "lost ", .message_after = " edges"});
  }

  /// Leaf i: loss 0.1^i, edges i + head, pairs 10, cells 4 + head.
  void add(int64_t leaf, FactSums& sums, int32_t excess = 0) const {
    std::vector<int64_t> words(table.bytes() / sizeof(int64_t));
    const model::Facts facts(table, words.data());
    facts.at<double>(loss)[0] = std::pow(0.1, static_cast<double>(leaf));
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      facts.at<int32_t>(lost, layer)[0] = excess;
      for (int64_t head = 0; head < 3; ++head) {
        facts.at<int64_t>(edges, layer)[head] = leaf + head;
        facts.at<int64_t>(pairs, layer)[head] = 10;
        facts.at<float>(cells, layer)[head] = 4.0f + static_cast<float>(head);
      }
    }
    sums.add(leaf, facts);
  }
};

TEST(FactSums, RatiosAreTakenOfSumsOverLeavesAndRanks) {
  const Table t;
  for (const int ranks : {1, 2, 3, 8, 11}) {
    std::vector<double> losses(static_cast<size_t>(ranks));
    comm::run_ranks(ranks, [&](comm::Communicator& communicator) {
      FactSums sums(t.table, kLeaves);
      for (int64_t leaf = communicator.rank(); leaf < kLeaves; leaf += communicator.size())
        t.add(leaf, sums);
      sums.all_reduce(communicator);
      const model::Figure& density = t.table.figures()[0];
      EXPECT_DOUBLE_EQ(sums.figure(density), (28.0 + 8.0) / 80);
      EXPECT_DOUBLE_EQ(sums.figure(density, 1, 2), (28.0 + 16.0) / 80);
      EXPECT_EQ(sums.value(t.cells, 0, 2), 6.0);
      EXPECT_EQ(sums.total("edges"), 2 * (3 * 28 + 3 * 8));
      losses[static_cast<size_t>(communicator.rank())] = sums.total(model::kLossSum);
      sums.require_limits();
    });
    // In the order of the leaves, whoever had them.
    double in_order = 0;
    for (int64_t leaf = 0; leaf < kLeaves; ++leaf)
      in_order += std::pow(0.1, static_cast<double>(leaf));
    for (const double loss : losses) EXPECT_EQ(loss, in_order) << ranks;
  }
}

TEST(FactSums, WhatMustStayZeroIsToldWithItsSum) {
  const Table t;
  FactSums sums(t.table, kLeaves);
  for (int64_t leaf = 0; leaf < 3; ++leaf) t.add(leaf, sums, 2);
  try {
    sums.require_limits();
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_STREQ(e.what(), "lost 12 edges");
    EXPECT_TRUE(e.is_collective());
  }
  sums.clear();
  sums.require_limits();
  EXPECT_TRUE(std::isnan(sums.figure(t.table.figures()[0])));
}

}  // namespace
}  // namespace stipple::trainer
