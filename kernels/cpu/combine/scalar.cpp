// SPDX-License-Identifier: Apache-2.0
// Combiner attention as plain loops over regions and passes: what the vectorised bodies are tested
// against.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/combine/bodies.h"
#include "kernels/cpu/scalar_rows.h"

namespace stipple::kernels::cpu::scalar {
namespace {

constexpr float kEmpty = -std::numeric_limits<float>::infinity();

bool counts(const uint8_t* mask, int64_t j) { return mask == nullptr || mask[j] != 0; }

float keep_factor(const DropoutStream& d, int64_t i, int64_t j) {
  if (!d.on) return 1.0f;
  const PhiloxCounter random = philox4x32(
      rng_counter(static_cast<uint32_t>(j / 4), static_cast<uint32_t>(i), d.sample, d.stream),
      d.key);
  return random[static_cast<size_t>(j % 4)] >= d.drop_below ? d.rescale : 0.0f;
}

// --- summaries -----------------------------------------------------------------------------------

/// Whose query and key stand for the region: the token's that asks, or, where that is padding or
/// beyond the end, the last one's before it, else the first one's behind it.
int64_t who_asks(const Region& region, const uint32_t* list, int64_t count) {
  int64_t asks = list[0];
  for (int64_t e = 0; e < count; ++e) {
    if (list[e] <= region.asks) asks = list[e];
  }
  return asks;
}

void pool_rows(const SummaryProblem& p, const float* rows, const uint32_t* list, int64_t count,
               float* out, int32_t* from) {
  for (int64_t x = 0; x < p.dim; ++x) {
    uint32_t best = list[0];
    float sum = 0.0f;
    for (int64_t e = 0; e < count; ++e) {
      const float value = rows[list[e] * p.dim + x];
      if (value > rows[best * p.dim + x]) best = list[e];
      sum += value;
    }
    if (p.pool == RegionPool::kMax) {
      out[x] = rows[best * p.dim + x];
      from[x] = static_cast<int32_t>(best);
    } else {
      out[x] = p.pool == RegionPool::kMean ? sum / static_cast<float>(count) : sum;
    }
  }
}

void take_row(const SummaryProblem& p, const float* rows, int64_t token, float* out,
              int32_t* from) {
  std::copy_n(rows + token * p.dim, p.dim, out);
  std::fill_n(from, p.dim, static_cast<int32_t>(token));
}

int64_t list_tokens(const SummaryProblem& p, const Line& tokens, uint32_t* list) {
  int64_t count = 0;
  for (int64_t e = 0; e < tokens.count; ++e) {
    if (counts(p.mask, tokens[e])) list[count++] = static_cast<uint32_t>(tokens[e]);
  }
  return count;
}

/// Dropout counts regions behind all tokens.
float keep_local(const SummaryProblem& p, int64_t r, int64_t j) {
  return keep_factor(p.dropout, p.partition.length + r, j);
}

void summarize_region(const SummaryProblem& p, const SummaryBuffers& b, int64_t r) {
  const Region region = p.partition.region(r);
  const int64_t count = list_tokens(p, region.tokens, b.list);
  float* query = p.query + r * p.dim;
  float* key = p.key + r * p.dim;
  float* value = p.value + r * p.dim;
  int32_t* query_from = p.query_from == nullptr ? nullptr : p.query_from + r * p.dim;
  int32_t* key_from = p.key_from == nullptr ? nullptr : p.key_from + r * p.dim;
  if (p.tokens != nullptr) p.tokens[r] = static_cast<int32_t>(count);
  std::fill_n(value, p.dim, 0.0f);
  p.lse[r] = kEmpty;
  if (count == 0) {
    std::fill_n(query, p.dim, 0.0f);
    std::fill_n(key, p.dim, 0.0f);
    return;
  }
  const bool is_weighted = p.key_rule == RegionKey::kWeighted;
  if (region.asks >= 0) {
    const int64_t asks = who_asks(region, b.list, count);
    take_row(p, p.q, asks, query, query_from);
    if (!is_weighted) take_row(p, p.pooled_k, asks, key, key_from);
  } else {
    pool_rows(p, p.q, b.list, count, query, query_from);
    if (!is_weighted) pool_rows(p, p.pooled_k, b.list, count, key, key_from);
  }
  if (is_weighted) std::fill_n(key, p.dim, 0.0f);

  float highest = kEmpty, sum = 0.0f;
  for (int64_t e = 0; e < count; ++e) {
    b.weights[e] = p.scale * dot(query, p.k + b.list[e] * p.dim, p.dim);
    highest = std::max(highest, b.weights[e]);
  }
  for (int64_t e = 0; e < count; ++e) sum += b.weights[e] = std::exp(b.weights[e] - highest);
  for (int64_t e = 0; e < count; ++e) {
    const int64_t j = b.list[e];
    const float weight = b.weights[e] / sum;
    add_scaled(value, weight * keep_local(p, r, j), p.v + j * p.dim, p.dim);
    if (is_weighted) add_scaled(key, weight, p.k + j * p.dim, p.dim);
  }
  p.lse[r] = highest + std::log(sum);
}

void summarize(const SummaryProblem& p, const SummaryBuffers& b, int64_t first, int64_t last) {
  for (int64_t r = first; r < last; ++r) summarize_region(p, b, r);
}

/// Adds the gradient by a pooled row to the rows that it was pooled from.
void pool_backward(const SummaryProblem& p, const SummaryBuffers& b, int64_t count,
                   const float* dpooled, const int32_t* from, float* drows) {
  if (from != nullptr) {
    for (int64_t x = 0; x < p.dim; ++x) drows[from[x] * p.dim + x] += dpooled[x];
    return;
  }
  const float share = p.pool == RegionPool::kMean ? 1.0f / static_cast<float>(count) : 1.0f;
  for (int64_t e = 0; e < count; ++e) add_scaled(drows + b.list[e] * p.dim, share, dpooled, p.dim);
}

void summarize_region_backward(const SummaryProblem& p, const SummaryBuffers& b, int64_t r) {
  const Region region = p.partition.region(r);
  const int64_t count = list_tokens(p, region.tokens, b.list);
  if (count == 0) return;
  const float* query = p.query + r * p.dim;
  const float* dkey = p.dkey + r * p.dim;
  const float* dvalue = p.dvalue + r * p.dim;
  const bool is_weighted = p.key_rule == RegionKey::kWeighted;
  float mean = 0.0f;
  for (int64_t e = 0; e < count; ++e) {
    const int64_t j = b.list[e];
    b.weights[e] = std::exp(p.scale * dot(query, p.k + j * p.dim, p.dim) - p.lse[r]);
    b.dweights[e] = keep_local(p, r, j) * dot(dvalue, p.v + j * p.dim, p.dim);
    if (is_weighted) b.dweights[e] += dot(dkey, p.k + j * p.dim, p.dim);
    mean += b.weights[e] * b.dweights[e];
  }
  std::fill_n(b.dquery, p.dim, 0.0f);
  for (int64_t e = 0; e < count; ++e) {
    const int64_t j = b.list[e];
    const float ds = p.scale * b.weights[e] * (b.dweights[e] - mean);
    add_scaled(p.dv + j * p.dim, b.weights[e] * keep_local(p, r, j), dvalue, p.dim);
    add_scaled(p.dk + j * p.dim, ds, query, p.dim);
    if (is_weighted) add_scaled(p.dk + j * p.dim, b.weights[e], dkey, p.dim);
    add_scaled(b.dquery, ds, p.k + j * p.dim, p.dim);
  }
  const auto row = [&](const int32_t* from) { return from == nullptr ? from : from + r * p.dim; };
  pool_backward(p, b, count, b.dquery, row(p.query_from), p.dq);
  if (!is_weighted) pool_backward(p, b, count, dkey, row(p.key_from), p.dpooled_k);
}

void summarize_backward(const SummaryProblem& p, const SummaryBuffers& b, int64_t first,
                        int64_t last) {
  for (int64_t r = first; r < last; ++r) summarize_region_backward(p, b, r);
}

// --- attention -----------------------------------------------------------------------------------

/// What a pass adds to the score of its key at place b, or kEmpty: it does not count.
float bias_of(const CombineProblem& p, const Pass& pass, int64_t b) {
  const int64_t key = pass.keys[b];
  if (!pass.of_regions) return counts(p.mask, key) ? 0.0f : kEmpty;
  const int32_t tokens = p.region_tokens[key];
  return tokens == 0 ? kEmpty : p.mass * std::log(static_cast<float>(tokens));
}

/// Calls visit(pass, token i, key, score) for every pair of a pass that counts, of queries of the run.
template <class Visit>
void for_each_pair(const CombineProblem& p, const Visit& visit) {
  for (int64_t g = 0; g < p.partition.num_passes(); ++g) {
    const Pass pass = p.partition.pass(g);
    const float* q = pass.of_regions ? p.region_q : p.q;
    const float* k = pass.of_regions ? p.region_key : p.k;
    for (int64_t a = 0; a < pass.queries.count; ++a) {
      const int64_t i = pass.queries[a];
      if (i < p.first_query || i >= p.end_query) continue;
      for (int64_t b = 0; b < pass.keys.count; ++b) {
        const float bias = pass.has(a, b) ? bias_of(p, pass, b) : kEmpty;
        if (bias == kEmpty) continue;
        const int64_t key = pass.keys[b];
        visit(pass, i, key, p.scale * dot(q + i * p.dim, k + key * p.dim, p.dim) + bias);
      }
    }
  }
}

float keep_factor(const CombineProblem& p, const Pass& pass, int64_t i, int64_t key) {
  if (!pass.of_regions) return keep_factor(p.dropout, i, key);
  return keep_factor(p.region_dropout, i, p.partition.length + key);
}

/// What query i with a softmax of b.sum[i] tells.
void tell_facts(const CombineProblem& p, const CombineBuffers& b, int64_t i) {
  if (p.facts == nullptr || !counts(p.mask, i)) return;
  const double sum = b.sum[i], of_regions = b.region_sum[i], tilt = b.region_tilt[i];
  ++p.facts->queries;
  p.facts->direct_weight += (sum - of_regions) / sum;
  if (of_regions == 0.0) return;
  ++p.facts->with_regions;
  p.facts->region_entropy += std::log(of_regions) - tilt / of_regions;
}

void forward(const CombineProblem& p, const CombineBuffers& b) {
  const int64_t first = p.first_query, count = p.end_query - first;
  std::fill_n(b.region_sum + first, count, 0.0f);
  std::fill_n(b.region_tilt + first, count, 0.0f);
  std::fill_n(b.max + first, count, kEmpty);
  std::fill_n(b.sum + first, count, 0.0f);
  std::fill_n(p.o + first * p.dim, count * p.dim, 0.0f);
  for_each_pair(p, [&](const Pass&, int64_t i, int64_t, float score) {
    b.max[i] = std::max(b.max[i], score);
  });
  for_each_pair(p, [&](const Pass& pass, int64_t i, int64_t key, float score) {
    const float weight = std::exp(score - b.max[i]);
    b.sum[i] += weight;
    if (pass.of_regions) {
      b.region_sum[i] += weight;
      b.region_tilt[i] += weight * (score - b.max[i]);
    }
    const float* v = (pass.of_regions ? p.region_value : p.v) + key * p.dim;
    add_scaled(p.o + i * p.dim, weight * keep_factor(p, pass, i, key), v, p.dim);
  });
  for (int64_t i = first; i < p.end_query; ++i) {
    p.lse[i] = b.max[i] == kEmpty ? kEmpty : b.max[i] + std::log(b.sum[i]);
    if (p.lse[i] == kEmpty) continue;
    tell_facts(p, b, i);
    for (int64_t x = 0; x < p.dim; ++x) p.o[i * p.dim + x] /= b.sum[i];
  }
}

void backward(const CombineProblem& p, const CombineBuffers&) {
  const int64_t first = p.first_query * p.dim, tokens = p.end_query * p.dim - first;
  const int64_t regions = p.partition.num_regions() * p.dim;
  for (float* array : {p.dq, p.dk, p.dv}) std::fill_n(array + first, tokens, 0.0f);
  for (float* array : {p.dregion_key, p.dregion_value}) std::fill_n(array, regions, 0.0f);
  double dmass = 0.0;
  for_each_pair(p, [&](const Pass& pass, int64_t i, int64_t key, float score) {
    const bool of_regions = pass.of_regions;
    const float* dout = p.dout + i * p.dim;
    const float weight = std::exp(score - p.final_lse[i]);
    const float keep = keep_factor(p, pass, i, key);
    const float* v = (of_regions ? p.region_value : p.v) + key * p.dim;
    const float ds = weight * (keep * dot(dout, v, p.dim) - p.delta[i]);
    const int64_t own = i * p.dim, other = key * p.dim;
    add_scaled((of_regions ? p.dregion_q : p.dq) + own, p.scale * ds,
               (of_regions ? p.region_key : p.k) + other, p.dim);
    add_scaled((of_regions ? p.dregion_key : p.dk) + other, p.scale * ds,
               (of_regions ? p.region_q : p.q) + own, p.dim);
    add_scaled((of_regions ? p.dregion_value : p.dv) + other, weight * keep, dout, p.dim);
    if (of_regions)
      dmass += static_cast<double>(ds * std::log(static_cast<float>(p.region_tokens[key])));
  });
  if (p.dmass != nullptr) *p.dmass = dmass;
}

}  // namespace

const CombineBodies kCombine = {summarize, summarize_backward, forward, backward};

}  // namespace stipple::kernels::cpu::scalar
