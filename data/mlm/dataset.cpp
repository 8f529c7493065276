// SPDX-License-Identifier: Apache-2.0
#include "data/mlm/dataset.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "data/shuffle.h"

namespace stipple::data::mlm {
namespace {

/// How many examples of `all` each source has; they sum to `all` whatever is rounded.
std::vector<int64_t> quotas_of(const std::vector<Source>& sources, int64_t all) {
  std::vector<int64_t> quotas;
  double shares = 0;
  int64_t given = 0;
  for (const Source& source : sources) {
    shares += source.share;
    quotas.push_back(std::llround(shares * static_cast<double>(all)) - given);
    given += quotas.back();
  }
  quotas.back() += all - given;
  return quotas;
}

/// The ranges of all instances, in order.
uint64_t hash_of_instances(const Instances& instances, uint64_t seed) {
  constexpr size_t kAtOnce = 4096;
  std::vector<Range> ranges;
  XXH3_state_t* const state = XXH3_createState();
  STIPPLE_CHECK(state != nullptr, "mlm: no memory for a hash");
  XXH3_64bits_reset_withSeed(state, seed);
  for (int64_t i = 0; i < instances.size(); ++i) {
    ranges.push_back(instances[i].text);
    if (ranges.size() < kAtOnce && i + 1 < instances.size()) continue;
    XXH3_64bits_update(state, ranges.data(), ranges.size() * sizeof(Range));
    ranges.clear();
  }
  const uint64_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return hash;
}

}  // namespace

MlmDataset::MlmDataset(std::vector<Source> sources, Masking masking,
                       const wordpiece::SpecialTokens& special, uint64_t seed,
                       std::vector<std::string> remarks)
    : sources_(std::move(sources)),
      masking_(std::move(masking)),
      special_(special),
      seed_(seed),
      remarks_(std::move(remarks)) {
  for (const Source& source : sources_)
    samples_.push_back(samples_.back() + source.instances->size());
  if (sources_.front().share == 0) {
    firsts_ = samples_;
    return;
  }
  for (const int64_t quota : quotas_of(sources_, samples_.back()))
    firsts_.push_back(firsts_.back() + quota);
}

MlmDataset::Shown MlmDataset::shown(Draw draw) const {
  STIPPLE_CHECK(draw.example >= 0 && draw.example < size(), "mlm: no example ", draw.example,
                " of ", size());
  const auto k =
      static_cast<size_t>(std::ranges::upper_bound(firsts_, draw.example) - firsts_.begin() - 1);
  const Source& source = sources_[k];
  int64_t instance = draw.example - firsts_[k];
  uint64_t visit = draw.epoch;
  if (source.share > 0) {
    const auto quota = static_cast<uint64_t>(firsts_[k + 1] - firsts_[k]);
    const auto all = static_cast<uint64_t>(source.instances->size());
    const uint64_t before = draw.epoch * quota + static_cast<uint64_t>(instance);
    visit = before / all;
    instance = static_cast<int64_t>(Shuffle(all, seed_ + k + 1, visit)(before % all));
  }
  return {&source, (*source.instances)[instance], static_cast<uint64_t>(samples_[k] + instance),
          visit};
}

void MlmDataset::write(const Shown& shown, std::span<int32_t> ids) const {
  const Range& text = shown.instance.text;
  ids.front() = special_.cls;
  shown.source->part.tokens().copy(text.begin, ids.subspan(1, static_cast<size_t>(text.size())));
  ids.back() = special_.sep;
}

int64_t MlmDataset::length(Draw draw, int64_t) const {
  return shown(draw).instance.text.size() + kAroundText;
}

int64_t MlmDataset::num_labels(Draw draw) const {
  const Shown of = shown(draw);
  std::vector<int32_t> ids(static_cast<size_t>(of.instance.text.size() + kAroundText));
  write(of, ids);
  return masking_.count(of.visit, of.sample, ids);
}

void MlmDataset::get(Draw draw, int64_t, const ExampleSpans& to) const {
  const Shown of = shown(draw);
  const auto n = static_cast<size_t>(of.instance.text.size() + kAroundText);
  STIPPLE_CHECK(to.ids.size() >= n && to.labels.size() >= n, "mlm: no room for example ",
                draw.example);
  write(of, to.ids.first(n));
  masking_.apply(of.visit, of.sample, to.ids.first(n), to.labels.first(n));
}

uint64_t MlmDataset::fingerprint() const {
  uint64_t all = 0;
  for (const Source& source : sources_) {
    const uint64_t hash = hash_of_instances(*source.instances, source.part.tokens().fingerprint());
    if (sources_.size() == 1) return hash;
    all = XXH3_64bits_withSeed(&hash, sizeof hash, all);
    all = XXH3_64bits_withSeed(&source.share, sizeof source.share, all);
  }
  return all;
}

Intake MlmDataset::intake() const {
  Intake intake;
  intake.examples = size();
  for (const Source& source : sources_) intake.tokens += source.part.range().size();
  intake.remarks = remarks_;
  return intake;
}

}  // namespace stipple::data::mlm
