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
  const std::vector<int64_t> quotas = quotas_of(sources_, samples_.back());
  for (size_t k = 0; k < quotas.size(); ++k) {
    STIPPLE_CHECK_AS(ConfigError, quotas[k] > 0, "data.mlm.shards: the weight of shard ", k + 1,
                     " gives it none of the ", samples_.back(), " examples of an epoch");
    firsts_.push_back(firsts_.back() + quotas[k]);
  }
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
  const auto put = [&](const Range& text) {
    shown.source->part.tokens().copy(text.begin, ids.first(static_cast<size_t>(text.size())));
    ids = ids.subspan(static_cast<size_t>(text.size()));
    ids.front() = special_.sep;
    ids = ids.subspan(1);
  };
  ids.front() = special_.cls;
  ids = ids.subspan(1);
  put(shown.instance.text);
  if (shown.instance.is_pair()) put(shown.instance.second);
}

int64_t MlmDataset::length(Draw draw, int64_t) const { return shown(draw).instance.length(); }

int64_t MlmDataset::num_labels(Draw draw) const {
  const Shown of = shown(draw);
  std::vector<int32_t> ids(static_cast<size_t>(of.instance.length()));
  write(of, ids);
  return masking_.count(of.visit, of.sample, ids);
}

void MlmDataset::get(Draw draw, int64_t, const ExampleSpans& to) const {
  const Shown of = shown(draw);
  const auto n = static_cast<size_t>(of.instance.length());
  STIPPLE_CHECK(to.ids.size() >= n && to.labels.size() >= n, "mlm: no room for example ",
                draw.example);
  write(of, to.ids.first(n));
  masking_.apply(of.visit, of.sample, to.ids.first(n), to.labels.first(n));
  if (!of.instance.is_pair()) return;
  const auto first = static_cast<size_t>(of.instance.text.size() + kAroundText);
  if (!to.segments.empty()) {
    std::ranges::fill(to.segments.first(first), 0);
    std::ranges::fill(to.segments.subspan(first, n - first), 1);
  }
  if (!to.relation.empty()) to.relation.front() = of.instance.relation;
}

uint64_t MlmDataset::fingerprint() const {
  uint64_t all = 0;
  for (const Source& source : sources_) {
    const uint64_t hash = source.instances->fingerprint(source.part.tokens().fingerprint());
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
