// SPDX-License-Identifier: Apache-2.0
#include "data/mlm/corpus.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/error.h"
#include "data/held_out.h"
#include "data/mlm/pairs.h"
#include "data/shards/mixture.h"
#include "data/text/corpus.h"

namespace stipple::data::mlm {
namespace {

constexpr std::string_view kShardsKey = "data.mlm.shards";

/// [CLS] and [SEP] have a place in data.max_length.
std::unique_ptr<const Instances> cut(const DataConfig& config, const Part& part, uint64_t seed) {
  const MlmConfig& mlm = config.mlm;
  if (mlm.pairs.kind != PairKind::kNone)
    return cut_pairs(part, mlm.pairs, config.max_length - kAroundPair, seed);
  const int64_t longest = config.max_length - kAroundText;
  return mlm.pack ? cut_blocks(part, longest) : cut_documents(part, longest);
}

/// The bytes of a document.
std::string bytes_of(const text::TokenStream& stream, int64_t document) {
  const Range range = stream.document(document);
  std::vector<int32_t> tokens(static_cast<size_t>(range.size()));
  stream.copy(range.begin, tokens);
  return {tokens.begin() + 1, tokens.end()};  // but for the separator
}

/// A document is one sequence, or, by_lines, each of its lines.
Part read_text(const text::TokenStream& stream, const wordpiece::WordPiece& tokenizer,
               bool by_lines) {
  std::vector<int32_t> ids;
  shards::Index index;
  const auto encode = [&](std::string_view text) {
    tokenizer.encode(text, ids);
    index.begins.push_back(static_cast<int64_t>(ids.size()));
  };
  for (int64_t i = 0; i < stream.num_documents(); ++i) {
    const std::string document = bytes_of(stream, i);
    if (!by_lines) encode(document);
    if (by_lines) text::for_each_line(document, encode);
    index.documents.push_back(index.num_sequences());
  }
  const Range all{0, index.num_tokens()};
  return {tokens_in_memory(std::move(ids), std::move(index)), all};
}

Corpus open_text(const DataConfig& config, const wordpiece::WordPiece& tokenizer, Split split,
                 uint64_t seed) {
  DataConfig of_text = config;
  of_text.text_lm.documents = config.mlm.documents;
  text::Part read = text::read_part(of_text, split);
  const Part part = read_text(read.stream, tokenizer, config.mlm.pairs.kind != PairKind::kNone);
  STIPPLE_CHECK_AS(DataError, part.range().size() > 0, "the ", split_name(split), " part of ",
                   config.dir, " has no words");
  Corpus corpus;
  corpus.remarks = std::move(read.remarks);
  corpus.sources.push_back({.part = part, .instances = cut(config, part, seed)});
  return corpus;
}

/// A run's own texts, and those of tasks that begin from it, are to be cut as these were.
void require_rules(const shards::Shard& shard, const DataConfig& config) {
  if (!shard.meta()) return;
  const wordpiece::Options& rules = shard.meta()->tokenizer;
  STIPPLE_CHECK_AS(DataError, rules.lower_case == config.lower_case, shard.name(), ": was made ",
                   rules.lower_case ? "in lower case" : "cased",
                   ", and data.lower_case says otherwise; set data.lower_case=",
                   rules.lower_case ? "true" : "false");
  STIPPLE_CHECK_AS(DataError, rules.profile == config.wordpiece_profile, shard.name(),
                   ": was made by profile ", wordpiece::profile_name(rules.profile),
                   "; set data.wordpiece_profile=", wordpiece::profile_name(rules.profile));
}

Part part_of_shard(std::shared_ptr<const shards::Shard> shard, Split split,
                   int64_t vocabulary_size) {
  STIPPLE_CHECK_AS(DataError, shard->num_tokens() >= kShortestCorpus, shard->name(), ": ",
                   shard->num_tokens(),
                   " tokens are too few to hold out 5 % for validation and 5 % for the test; at "
                   "least ",
                   kShortestCorpus, " are needed");
  std::vector<int64_t> ends;
  ends.reserve(static_cast<size_t>(shard->num_documents()));
  for (int64_t i = 0; i < shard->num_documents(); ++i) ends.push_back(shard->document(i).end);
  const Range range = part_of_split(ends, split);
  return {tokens_of_shard(std::move(shard), vocabulary_size), range};
}

Corpus open_shards(const DataConfig& config, const wordpiece::WordPiece& tokenizer, Split split,
                   uint64_t seed) {
  const auto mixture = shards::parse_mixture(config.mlm.shards, kShardsKey);
  double weights = 0;
  for (const shards::WeightedShard& shard : mixture) weights += shard.weight;
  Corpus corpus;
  for (const shards::WeightedShard& named : mixture) {
    auto shard = std::make_shared<const shards::Shard>(named.name);
    shard->require_vocabulary(tokenizer.vocabulary());
    require_rules(*shard, config);
    if (!shard->meta() && split == Split::kTrain) {
      corpus.remarks.push_back(
          fmt::format("{} has no meta.json: nothing tells by which vocabulary its tokens were made",
                      shard->name()));
    }
    const Part part = part_of_shard(shard, split, tokenizer.vocabulary().size());
    STIPPLE_CHECK_AS(DataError, config.mlm.pairs.kind == PairKind::kNone || part.has_sentences(),
                     shard->name(),
                     ": does not know sentences, which data.mlm.pairs are made of; make it by "
                     "`stipple data tokenize --sentences` of text with a sentence a line");
    const bool has_share = weights > 0 && split == Split::kTrain;
    corpus.sources.push_back({.part = part,
                              .instances = cut(config, part, seed),
                              .share = has_share ? named.weight / weights : 0});
  }
  return corpus;
}

}  // namespace

Corpus open_corpus(const DataConfig& config, const wordpiece::WordPiece& tokenizer, Split split,
                   uint64_t seed) {
  return config.mlm.shards.empty() ? open_text(config, tokenizer, split, seed)
                                   : open_shards(config, tokenizer, split, seed);
}

bool has_weights(const std::string& shards) {
  return !shards.empty() && shards::parse_mixture(shards, kShardsKey).front().weight > 0;
}

std::vector<std::string> files_of_corpus(const DataConfig& config) {
  if (config.mlm.shards.empty()) {
    try {
      return text::files_of(config);
    } catch (const DataError&) {
      return {config.dir};
    }
  }
  std::vector<std::string> files;
  for (const auto& shard : shards::parse_mixture(config.mlm.shards, kShardsKey)) {
    for (const std::string& file : shards::files_of_shard(shard.name)) files.push_back(file);
  }
  return files;
}

}  // namespace stipple::data::mlm
