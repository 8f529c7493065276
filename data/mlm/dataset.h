// SPDX-License-Identifier: Apache-2.0
// Instances of one corpus or several, with tokens masked:
//
//   ids       [CLS] text [SEP]           [CLS] text [SEP] second [SEP]
//   segments                               0     0    0     1      1
//   labels    what was masked, -1 elsewhere
//   relation                             that of the two texts
//
// Sources without weights are shown whole in each epoch, one behind the other. With weights an epoch
// is as long, but a source has its share of it: it goes on in the next epoch where it stopped, in an
// order that is drawn for every pass through it. Everything is a function of (seed, epoch, example).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/mlm/instances.h"
#include "data/mlm/masking.h"
#include "data/wordpiece/vocabulary.h"

namespace stipple::data::mlm {

struct Source {
  Part part;
  std::unique_ptr<const Instances> instances;
  double share = 0;  ///< of an epoch; 0, and then of all sources: each instance once
};

class MlmDataset final : public Dataset {
 public:
  MlmDataset(std::vector<Source>, Masking, const wordpiece::SpecialTokens&, uint64_t seed,
             std::vector<std::string> remarks);

  int64_t size() const override { return firsts_.back(); }
  int64_t length(Draw, int64_t sequence) const override;
  /// As get() writes them, drawn again: O(tokens).
  int64_t num_labels(Draw) const override;
  void get(Draw, int64_t sequence, const ExampleSpans&) const override;
  /// Reads the ranges of all instances, not the tokens of shards (Shard::fingerprint).
  uint64_t fingerprint() const override;
  Intake intake() const override;

 private:
  /// What a draw shows.
  struct Shown {
    const Source* source;
    Instance instance;
    uint64_t sample;  ///< number of the instance among those of all sources
    uint64_t visit;   ///< how many times it was shown before
  };
  Shown shown(Draw) const;
  void write(const Shown&, std::span<int32_t> ids) const;

  std::vector<Source> sources_;
  std::vector<int64_t> firsts_{0};   ///< example of each source in an epoch, and the end
  std::vector<int64_t> samples_{0};  ///< instance of each source, and the end
  Masking masking_;
  wordpiece::SpecialTokens special_;
  uint64_t seed_;
  std::vector<std::string> remarks_;
};

}  // namespace stipple::data::mlm
