// SPDX-License-Identifier: Apache-2.0
#include "model/attention/sbm/sbm_graph.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace stipple::model {

/// Of a mask entry whose rate, exploration included, is this.
double SbmGraph::mean(double rate, bool is_in_window) const {
  switch (law_) {
    case kernels::MaskLaw::kBernoulli:
      return is_in_window ? 1.0 : std::min(1.0, rate);
    case kernels::MaskLaw::kPoissonCollapse:
      return is_in_window ? 1.0 : -std::expm1(-rate);
    case kernels::MaskLaw::kPoissonMulti:
      // A pair of the window that was not drawn counts as one.
      return is_in_window ? rate + std::exp(-rate) : rate;
  }
  throw Error("attention.sbm.law: no such law");
}

void SbmGraph::probabilities(int64_t head, int64_t query, std::span<double> by_key) const {
  const auto k = static_cast<size_t>(groups);
  const auto n = static_cast<size_t>(tokens);
  const float* const y =
      query_memberships.data() + (static_cast<size_t>(head) * n + static_cast<size_t>(query)) * k;
  const float* const s = blocks.data() + static_cast<size_t>(head) * k * k;
  const float* const z = key_memberships.data() + static_cast<size_t>(head) * n * k;
  std::vector<double> mu(k);
  for (size_t u = 0; u < k; ++u) {
    for (size_t v = 0; v < k; ++v)
      mu[v] += static_cast<double>(y[u]) * static_cast<double>(s[u * k + v]);
  }
  for (size_t j = 0; j < n; ++j) {
    double rate = delta_;
    for (size_t v = 0; v < k; ++v) rate += mu[v] * static_cast<double>(z[j * k + v]);
    by_key[j] =
        mean(rate, std::abs(places_[j] - places_[static_cast<size_t>(query)]) <= window_radius_);
  }
}

}  // namespace stipple::model
