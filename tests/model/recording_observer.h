// SPDX-License-Identifier: Apache-2.0
// Keeps everything that modules report.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/context.h"

namespace stipple::test {

class RecordingObserver final : public model::Observer {
 public:
  RecordingObserver() {
    ranges.reserve(kRoom);
    graphs.reserve(kRoom);
  }
  void grads_ready(Range range) override { ranges.push_back(range); }
  void auxiliary_loss(std::string_view name, double value) override {
    EXPECT_EQ(name, "attention.sparsity");
    auxiliary += value;
    ++auxiliary_reports;
  }
  void graph(const Graph& graph) override { graphs.push_back(graph); }
  void time(model::Phase phase, double seconds) override {
    EXPECT_EQ(phase, model::Phase::kSampling);
    EXPECT_GE(seconds, 0.0);
    ++sampling_reports;
  }
  void clear() {
    ranges.clear();
    graphs.clear();
    auxiliary = 0;
    auxiliary_reports = 0;
    sampling_reports = 0;
  }

  std::vector<Range> ranges;
  std::vector<Graph> graphs;
  double auxiliary = 0;
  int auxiliary_reports = 0;
  int sampling_reports = 0;

 private:
  static constexpr size_t kRoom = 1024;  // so that recording allocates nothing
};

}  // namespace stipple::test
