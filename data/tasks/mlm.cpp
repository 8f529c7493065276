// SPDX-License-Identifier: Apache-2.0
#include <xxhash.h>

#include <algorithm>
#include <memory>

#include "core/error.h"
#include "data/mlm/masking.h"
#include "data/tasks/tasks.h"
#include "data/text/corpus.h"
#include "data/wordpiece/configured.h"

namespace stipple::data {
namespace {

using wordpiece::Vocabulary;
using wordpiece::WordPiece;

/// [CLS] and [SEP].
constexpr int64_t kAround = 2;

/// Tokens of documents, one behind the other, cut into pieces.
struct Pieces {
  std::vector<int32_t> ids;
  std::vector<Range> pieces;
};

void cut_into(const Range& tokens, int64_t longest, std::vector<Range>& pieces) {
  for (int64_t begin = tokens.begin; begin < tokens.end; begin += longest)
    pieces.push_back({begin, std::min(begin + longest, tokens.end)});
}

/// The bytes of a document.
std::string bytes_of(const text::TokenStream& stream, int64_t document) {
  const Range range = stream.document(document);
  std::vector<int32_t> tokens(static_cast<size_t>(range.size()));
  stream.copy(range.begin, tokens);
  return {tokens.begin() + 1, tokens.end()};  // but for the separator
}

Pieces read_pieces(const text::TokenStream& stream, const WordPiece& tokenizer, int64_t longest,
                   bool pack) {
  Pieces read;
  for (int64_t i = 0; i < stream.num_documents(); ++i) {
    const auto begin = static_cast<int64_t>(read.ids.size());
    tokenizer.encode(bytes_of(stream, i), read.ids);
    if (!pack) cut_into({begin, static_cast<int64_t>(read.ids.size())}, longest, read.pieces);
  }
  if (pack) cut_into({0, static_cast<int64_t>(read.ids.size())}, longest, read.pieces);
  return read;
}

class MlmDataset final : public Dataset {
 public:
  MlmDataset(Pieces pieces, Masking masking, const wordpiece::SpecialTokens& special,
             std::vector<std::string> remarks)
      : pieces_(std::move(pieces)),
        masking_(std::move(masking)),
        special_(special),
        remarks_(std::move(remarks)) {}

  int64_t size() const override { return static_cast<int64_t>(pieces_.pieces.size()); }
  int64_t length(Draw draw, int64_t) const override { return piece(draw.example).size() + kAround; }

  /// As get() writes them, drawn again: O(tokens).
  int64_t num_labels(Draw draw) const override {
    std::vector<int32_t> ids(static_cast<size_t>(length(draw, 0)));
    write(draw.example, ids);
    return masking_.count(draw.epoch, static_cast<uint64_t>(draw.example), ids);
  }

  void get(Draw draw, int64_t, const ExampleSpans& to) const override {
    const auto n = static_cast<size_t>(length(draw, 0));
    write(draw.example, to.ids.first(n));
    masking_.apply(draw.epoch, static_cast<uint64_t>(draw.example), to.ids.first(n),
                   to.labels.first(n));
  }

  uint64_t fingerprint() const override {
    const uint64_t tokens =
        XXH3_64bits(pieces_.ids.data(), pieces_.ids.size() * sizeof(pieces_.ids[0]));
    return XXH3_64bits_withSeed(pieces_.pieces.data(), pieces_.pieces.size() * sizeof(Range),
                                tokens);
  }

  Intake intake() const override {
    Intake intake;
    intake.examples = size();
    intake.tokens = static_cast<int64_t>(pieces_.ids.size());
    intake.remarks = remarks_;
    return intake;
  }

 private:
  const Range& piece(int64_t i) const { return pieces_.pieces[static_cast<size_t>(i)]; }

  void write(int64_t i, std::span<int32_t> ids) const {
    const Range& tokens = piece(i);
    ids.front() = special_.cls;
    std::copy_n(pieces_.ids.begin() + tokens.begin, tokens.size(), ids.begin() + 1);
    ids.back() = special_.sep;
  }

  Pieces pieces_;
  Masking masking_;
  wordpiece::SpecialTokens special_;
  std::vector<std::string> remarks_;
};

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
        tokenizer_(std::make_shared<const WordPiece>(wordpiece::configured_tokenizer(config))),
        training_(config.mlm.masking, masked_vocabulary(tokenizer_), seed),
        evaluation_(evaluated(config.mlm), masked_vocabulary(tokenizer_), seed + 1),
        info_{.name = "mlm",
              .fields = {.label = LabelKind::kMaskedToken},
              .vocab_size = tokenizer_->vocabulary().size(),
              .num_classes = tokenizer_->vocabulary().size(),
              .max_length = config.max_length,
              .metrics = {kAccuracy, kPerplexity}} {}

  const TaskInfo& info() const override { return info_; }

  std::unique_ptr<Dataset> open(Split split) const override {
    DataConfig of_text = config_;
    of_text.text_lm.documents = config_.mlm.documents;
    text::Part part = text::read_part(of_text, split);
    Pieces pieces =
        read_pieces(part.stream, *tokenizer_, config_.max_length - kAround, config_.mlm.pack);
    STIPPLE_CHECK_AS(DataError, !pieces.pieces.empty(), "the ", split_name(split), " part of ",
                     config_.dir, " has no words");
    return std::make_unique<MlmDataset>(
        std::move(pieces), split == Split::kTrain ? training_ : evaluation_,
        tokenizer_->vocabulary().special(), std::move(part.remarks));
  }

  std::vector<std::string> files(Split) const override {
    try {
      return text::files_of(config_);
    } catch (const DataError&) {
      return {config_.dir};
    }
  }

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
  /// Trained at another rate, a model is judged at the usual one, by one masking of each piece.
  static MaskingConfig evaluated(const MlmConfig& config) {
    MaskingConfig masking = config.masking;
    masking.rate = config.eval_rate;
    return masking;
  }

  DataConfig config_;
  SharedTokenizer tokenizer_;
  Masking training_, evaluation_;
  TaskInfo info_;
};

}  // namespace

void MlmConfig::describe(ConfigVisitor& visitor) {
  visitor.choice("documents", documents, {"file", "blank_line"},
                 {.doc = "What a document is: a file, or what stands between blank lines of one."});
  visitor.field(
      "pack", pack,
      {.doc = "Documents follow each other, and pieces of data.max_length are cut without "
              "regard to them: no padding. false: a piece is of one document."});
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
