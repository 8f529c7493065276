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

  /// Zeroed facts for the next forward.
  model::Facts facts(const model::FactTable& table) {
    words_.assign(table.bytes() / sizeof(int64_t), 0);
    return {table, words_.data()};
  }
  /// Those of the last forward.
  model::Facts told(const model::FactTable& table) { return {table, words_.data()}; }
  /// What forward told.
  void read(const model::FactTable& table, const model::Facts& facts) {
    for (int64_t layer = 0; layer < table.layers(); ++layer) {
      auxiliary += facts.at<double>(table.find(model::kAuxiliaryLoss), layer)[0];
      if (!table.find("pairs").exists()) continue;
      const auto count = [&](const char* name, int64_t head) {
        return facts.at<int64_t>(table.find(name), layer)[head];
      };
      for (int64_t h = 0; h < table.fact(table.find("pairs")).size; ++h) {
        if (count("pairs", h) == 0) continue;
        const model::FactId cells = table.find("effective_cells");  // of block models only
        graphs.push_back({static_cast<int>(layer), static_cast<int>(h), count("edges", h),
                          count("pairs", h), count("empty_rows", h), count("rows", h),
                          cells.exists() ? facts.at<float>(cells, layer)[h] : 0.0});
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
