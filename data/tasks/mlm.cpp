// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>

#include "core/error.h"
#include "data/mlm/corpus.h"
#include "data/mlm/dataset.h"
#include "data/mlm/masking.h"
#include "data/mlm/packed.h"
#include "data/tasks/tasks.h"
#include "data/wordpiece/configured.h"

namespace stipple::data {
namespace {

using wordpiece::Vocabulary;
using wordpiece::WordPiece;

/// Datasets may outlive their task, and so share its tokenizer.
using SharedTokenizer = std::shared_ptr<const WordPiece>;

MaskedVocabulary masked_vocabulary(const SharedTokenizer& tokenizer) {
  const Vocabulary& vocabulary = tokenizer->vocabulary();
  return {.vocab_size = vocabulary.size(),
          .mask = vocabulary.special().mask,
          .is_special = [tokenizer](int32_t id) { return tokenizer->vocabulary().is_special(id); },
          .continues =
              [tokenizer](int32_t id) {
                return tokenizer->vocabulary().token(id).starts_with(wordpiece::kContinuation);
              }};
}

class MlmTask final : public Task {
 public:
  MlmTask(const DataConfig& config, uint64_t seed)
      : config_(config),
        seed_(seed),
        tokenizer_(std::make_shared<const WordPiece>(wordpiece::configured_tokenizer(config))),
        training_(config.mlm.masking, masked_vocabulary(tokenizer_), seed),
        evaluation_(evaluated(config.mlm), masked_vocabulary(tokenizer_), seed + 1),
        info_{.name = "mlm",
              .fields = fields_of(config.mlm),
              .vocab_size = tokenizer_->vocabulary().size(),
              .vocabulary = tokenizer_->vocabulary().hash(),
              .num_classes = tokenizer_->vocabulary().size(),
              .max_length = config.max_length,
              .metrics = metrics_of(config.mlm)} {
    if (config.mlm.share_rows) require_rows_can_be_shared(config.mlm);
  }

  const TaskInfo& info() const override { return info_; }

  std::unique_ptr<Dataset> open(Split split) const override {
    mlm::Corpus corpus = mlm::open_corpus(config_, *tokenizer_, split, seed_);
    auto dataset = std::make_unique<mlm::MlmDataset>(
        std::move(corpus.sources), split == Split::kTrain ? training_ : evaluation_,
        tokenizer_->vocabulary().special(), seed_, std::move(corpus.remarks));
    if (!config_.mlm.share_rows) return dataset;
    return std::make_unique<mlm::PackedDataset>(std::move(dataset), config_.max_length);
  }

  std::vector<std::string> files(Split) const override { return mlm::files_of_corpus(config_); }

  /// What one knows without learning: the token that is asked for most often.
  std::vector<Rung> ladder(const Dataset& dataset) const override {
    std::vector<int64_t> counts(static_cast<size_t>(info_.vocab_size));
    std::vector<int32_t> ids(static_cast<size_t>(info_.max_length)), labels(ids.size());
    int64_t total = 0;
    for (int64_t i = 0; i < dataset.size(); ++i) {
      const auto n = static_cast<size_t>(dataset.length({.example = i}, 0));
      dataset.get({.example = i}, 0,
                  {.ids = std::span(ids).first(n), .labels = std::span(labels).first(n)});
      for (const int32_t label : std::span(labels).first(n)) {
        if (label < 0) continue;
        ++counts[static_cast<size_t>(label)];
        ++total;
      }
    }
    if (total == 0) return {};
    return {{"most frequent token",
             static_cast<double>(std::ranges::max(counts)) / static_cast<double>(total)}};
  }

 private:
  static void require_rows_can_be_shared(const MlmConfig& config) {
    STIPPLE_CHECK_AS(
        ConfigError, !config.pack,
        "data.mlm.share_rows: pieces that run across documents fill their rows as they "
        "are; use data.mlm.pack=false, or share_rows=false");
    STIPPLE_CHECK_AS(ConfigError, !has_pairs(config),
                     "data.mlm.share_rows: the head of data.mlm.pairs reads one [CLS] a row; use "
                     "data.mlm.share_rows=false");
    STIPPLE_CHECK_AS(
        ConfigError, !mlm::has_weights(config.shards),
        "data.mlm.share_rows: which pieces share a row is settled once, and with "
        "weights data.mlm.shards shows others in each epoch; leave out the weights, or "
        "use data.mlm.share_rows=false");
  }
  static bool has_pairs(const MlmConfig& config) { return config.pairs.kind != PairKind::kNone; }
  static LeafFields fields_of(const MlmConfig& config) {
    return {.label = LabelKind::kMaskedToken,
            .segments = has_pairs(config) ? 2 : 0,
            .has_relation = has_pairs(config),
            .is_packed = config.share_rows};
  }
  static std::vector<Metric> metrics_of(const MlmConfig& config) {
    std::vector<Metric> metrics{kAccuracy, kPerplexity};
    if (has_pairs(config)) metrics.push_back(kRelationAccuracy);
    return metrics;
  }

  /// Trained at another rate, a model is judged at the usual one, by one masking of each piece.
  static MaskingConfig evaluated(const MlmConfig& config) {
    MaskingConfig masking = config.masking;
    masking.rate = config.eval_rate;
    return masking;
  }

  DataConfig config_;
  uint64_t seed_;
  SharedTokenizer tokenizer_;
  Masking training_, evaluation_;
  TaskInfo info_;
};

}  // namespace

void MlmConfig::describe(ConfigVisitor& visitor) {
  visitor.field(
      "shards", shards,
      {.doc = "Shards that `stipple data tokenize` wrote with data.vocab, or Megatron-LM, "
              "in place of data.dir and data.files: PREFIX,PREFIX,..., each shown whole "
              "in an epoch, or PREFIX:WEIGHT,PREFIX:WEIGHT,..., each with that share of "
              "the examples. The last 5 % of the tokens of each are the test, the 5 % "
              "before them validation."});
  visitor.choice(
      "documents", documents, {"file", "blank_line"},
      {.doc = "What a document of plain text is: a file, or what stands between blank lines "
              "of one."});
  visitor.field(
      "pack", pack,
      {.doc = "Documents follow each other, and pieces of data.max_length are cut without "
              "regard to them: no padding. false: a piece is of one document."});
  visitor.field("share_rows", share_rows,
                {.doc = "With pack=false: pieces of several documents share a row of "
                        "data.max_length, which leaves little padding. They do not see each other, "
                        "and positions begin anew with each: what a piece gives is what it gives "
                        "alone. For attentions that can keep them apart: softmax, entmax, none."});
  visitor.section("pairs", pairs, "Pairs of texts, whose relation is to be told, too.");
  visitor.section("masking", masking, "Which tokens are asked for in training.");
  visitor.field("eval_rate", eval_rate,
                {.doc = "The rate of masking that evaluation has, whatever training has.",
                 .min = 0.001,
                 .max = 0.9});
}

std::unique_ptr<Task> tasks::make_mlm(const DataConfig& config, uint64_t seed) {
  return std::make_unique<MlmTask>(config, seed);
}

}  // namespace stipple::data
