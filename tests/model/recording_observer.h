// SPDX-License-Identifier: Apache-2.0
// Keeps everything that modules report.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "model/context.h"

namespace stipple::test {

class RecordingObserver final : public model::Observer {
 public:
  struct Graph {
    int layer = 0;
    int head = 0;
    int64_t edges = 0;
    int64_t pairs = 0;
    int64_t empty_rows = 0;
    int64_t rows = 0;
    double effective_cells = 0;
  };

  RecordingObserver() {
    ranges.reserve(kRoom);
    graphs.reserve(kRoom);
  }
  void grads_ready(Range range) override { ranges.push_back(range); }
  void begin(model::Phase phase, const Stream&) override {
    EXPECT_EQ(phase, model::Phase::kSampling);
    EXPECT_FALSE(is_sampling_);
    is_sampling_ = true;
  }
  void end(model::Phase phase, const Stream&) override {
    EXPECT_EQ(phase, model::Phase::kSampling);
    EXPECT_TRUE(is_sampling_);
    is_sampling_ = false;
    ++sampling_reports;
  }

  /// A zeroed record for the next forward.
  model::LeafRecord record(int64_t layers, int64_t heads) {
    words_.assign(model::LeafRecord::bytes(layers, heads) / sizeof(int64_t), 0);
    return {words_.data(), layers, heads};
  }
  /// What forward left in it.
  void read(const model::LeafRecord& record) {
    for (int64_t layer = 0; layer < record.layers(); ++layer) {
      const model::LeafRecord::Layer facts = record.layer(layer);
      auxiliary += facts.auxiliary_loss[0];
      for (int64_t h = 0; h < record.heads(); ++h) {
        if (facts.pairs[h] == 0) continue;
        graphs.push_back({static_cast<int>(layer), static_cast<int>(h), facts.edges[h],
                          facts.pairs[h], facts.empty_rows[h], facts.rows[h],
                          static_cast<double>(facts.effective_cells[h])});
      }
    }
  }

  void clear() {
    ranges.clear();
    graphs.clear();
    auxiliary = 0;
    sampling_reports = 0;
  }

  std::vector<Range> ranges;
  std::vector<Graph> graphs;
  double auxiliary = 0;
  int sampling_reports = 0;

 private:
  bool is_sampling_ = false;
  static constexpr size_t kRoom = 1024;  // so that recording allocates nothing
  std::vector<int64_t> words_;
};

}  // namespace stipple::test
