// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/exact_supports.h"

#include <algorithm>

#include "model/attention/attention.h"
#include "model/attention/graph.h"
#include "trainer/loop/evaluate.h"
#include "trainer/loop/step_observer.h"

namespace stipple::trainer {
namespace {

/// Puts what it is told into `supports`.
class SupportSink final : public model::GraphSink {
 public:
  SupportSink(ExactSupports& supports, int64_t heads, int64_t rows)
      : supports_(supports), heads_(heads), rows_(rows) {}

  bool wants_support() const override { return true; }
  bool wants(int64_t row) const override { return row < rows_; }

  void hear(const model::Context& ctx, const model::AttentionInputs& in) override {
    queries_.clear();
    keys_.clear();
    for (int64_t row = 0; row < rows_; ++row) {
      const std::vector<int64_t> tokens = model::download_tokens(ctx.stream, in.mask, row);
      queries_.push_back(model::download_features(ctx.stream, in.content_q, row, tokens));
      keys_.push_back(model::download_features(ctx.stream, in.content_k, row, tokens));
    }
  }
  void take(std::unique_ptr<model::AttentionGraph> graph) override {
    const auto row = static_cast<size_t>(graph->row);
    const auto size = static_cast<std::ptrdiff_t>(queries_[row].size()) / heads_;
    for (int64_t head = 0; head < heads_; ++head) {
      const auto part = [&](const std::vector<float>& of_row) {
        const auto first = of_row.begin() + head * size;
        return std::vector<float>(first, first + size);
      };
      kernels::EdgeList& gold = graph->edges.at(static_cast<size_t>(head));
      gold.columns.shrink_to_fit();
      supports_.at(static_cast<size_t>(graph->layer * heads_ + head))
          .push_back({.q = part(queries_[row]), .k = part(keys_[row]), .gold = std::move(gold)});
    }
  }

 private:
  ExactSupports& supports_;
  int64_t heads_, rows_;
  std::vector<std::vector<float>> queries_, keys_;  ///< [H, n, D] of the layer's rows
};

}  // namespace

Range leaves_of_examples(const Config& config, int64_t count) {
  return {0, (count + config.train.micro_batch - 1) / config.train.micro_batch};
}

ExactSupports exact_supports(Replica& replica, const data::Dataset& training,
                             const data::TaskInfo& info, const Config& config, Range leaves,
                             int64_t first_step) {
  ExactSupports supports(static_cast<size_t>(config.model.layers * config.model.heads));
  data::TrainBatches batches(training, info, batch_options(config, /*is_captured=*/false));
  const RngKey rng = evaluation_rng(config, /*seed=*/0);
  data::Leaf leaf;
  StepObserver nobody;
  for (int64_t l = leaves.begin; l < leaves.end; ++l) {
    batches.load(first_step + l / batches.num_leaves(), l % batches.num_leaves(), leaf);
    replica.feed().put(l, 0, leaf);
    SupportSink sink(supports, config.model.heads, leaf.sizes.rows());
    replica.forward(0, rng, /*training=*/false, nobody, &sink);
    replica.stream().synchronize();
  }
  return supports;
}

}  // namespace stipple::trainer
