// SPDX-License-Identifier: Apache-2.0
// Group T13 of docs/attention/sbm.md: nine deliberately wrong samplers. The checks that the real
// samplers pass must reject each of them, or they would prove nothing.
#include <gtest/gtest.h>

#include <numeric>

#include "core/stream.h"
#include "kernels/cpu/sample/rows.h"
#include "kernels/cpu/sample/scratch.h"
#include "tests/support/alias_tables.h"
#include "tests/support/sampler_checks.h"

namespace stipple::test {
namespace {

constexpr int kDraws = 4000;

SbmCase structured_case(const std::string& name) {
  for (const NamedCase& named : structured_cases()) {
    if (named.name == name) return named.value;
  }
  ADD_FAILURE() << "no case " << name;
  return {};
}

std::vector<GraphSampler> real_samplers() {
  return {EdgeSampler(SamplerKind::kTiles), EdgeSampler(SamplerKind::kRows)};
}

/// Y, S and Z apart, as fastRG takes them.
struct BlockModel {
  std::vector<std::vector<double>> y, s, z;
};

int64_t weighted_pick(const std::vector<double>& weights, std::mt19937_64& generator) {
  std::discrete_distribution<int64_t> pick(weights.begin(), weights.end());
  return pick(generator);
}

std::vector<double> column(const std::vector<std::vector<double>>& rows, size_t c) {
  std::vector<double> values;
  for (const auto& row : rows) values.push_back(row[c]);
  return values;
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

/// fastRG in one piece (law poisson_multi). `columns_in_order_of_v` is the bug of the released
/// Python code: row draws come grouped by U, column draws grouped by V, and are paired as they
/// come.
void fast_rg(const BlockModel& model, uint64_t step, bool columns_in_order_of_v,
             std::vector<uint8_t>& counts) {
  std::mt19937_64 generator(splitmix64(step));
  const size_t k = model.s.size();
  std::vector<double> cells;
  for (size_t u = 0; u < k; ++u) {
    for (size_t v = 0; v < k; ++v) {
      cells.push_back(sum(column(model.y, u)) * model.s[u][v] * sum(column(model.z, v)));
    }
  }
  const int64_t edges = std::poisson_distribution<int64_t>(sum(cells))(generator);
  std::vector<std::pair<size_t, size_t>> blocks;
  for (int64_t e = 0; e < edges; ++e) {
    const auto cell = static_cast<size_t>(weighted_pick(cells, generator));
    blocks.emplace_back(cell / k, cell % k);
  }
  std::sort(blocks.begin(), blocks.end());
  std::vector<size_t> column_blocks;
  for (const auto& [u, v] : blocks) column_blocks.push_back(v);
  if (columns_in_order_of_v) std::sort(column_blocks.begin(), column_blocks.end());
  counts.assign(model.y.size() * model.z.size(), 0);
  for (size_t e = 0; e < blocks.size(); ++e) {
    const int64_t i = weighted_pick(column(model.y, blocks[e].first), generator);
    const int64_t j = weighted_pick(column(model.z, column_blocks[e]), generator);
    ++counts[static_cast<size_t>(i) * model.z.size() + static_cast<size_t>(j)];
  }
}

TEST(SamplerMutants, ColumnsInOrderOfTheirOwnBlocksAreRejected) {
  // Small, because this sampler is slow; anti-diagonal, because a near-uniform S hides the bug.
  constexpr int64_t n = 12, m = 10, k = 3;
  const auto y = [](int64_t i, int64_t u) { return scatter(i, u, 1); };
  const auto z = [](int64_t j, int64_t v) { return scatter(j, v, 2); };
  const auto s = [](int64_t u, int64_t v) { return u + v == k - 1 ? 0.3 : 0.0; };
  SbmCase c = make_case(n, m, k, y, s, z);
  c.law = MaskLaw::kPoissonMulti;
  BlockModel model{std::vector(n, std::vector<double>(k)), std::vector(k, std::vector<double>(k)),
                   std::vector(m, std::vector<double>(k))};
  for (int64_t u = 0; u < k; ++u) {
    const auto at = static_cast<size_t>(u);
    for (int64_t i = 0; i < n; ++i) model.y[static_cast<size_t>(i)][at] = y(i, u);
    for (int64_t j = 0; j < m; ++j) model.z[static_cast<size_t>(j)][at] = z(j, u);
    for (int64_t v = 0; v < k; ++v) model.s[at][static_cast<size_t>(v)] = s(u, v);
  }
  const auto sampler = [&](bool broken) -> GraphSampler {
    return [&model, broken](const SbmCase&, const DrawName& name, std::vector<uint8_t>& counts) {
      fast_rg(model, name.step, broken, counts);
    };
  };
  EXPECT_EQ(check_law(sampler(false), c, kDraws), "");
  EXPECT_NE(check_law(sampler(true), c, kDraws), "");
  for (const GraphSampler& real : real_samplers()) EXPECT_EQ(check_law(real, c, kDraws), "");
}

TEST(SamplerMutants, TransposedMasksAreRejected) {
  SbmCase c = structured_case("asymmetric");
  // Square: the first 37 queries.
  c.n = c.m;
  c.mu.resize(static_cast<size_t>(c.n * c.k));
  for (const GraphSampler& real : real_samplers()) {
    EXPECT_EQ(check_law(real, c, kDraws), "");
    const GraphSampler mutant = [&real](const SbmCase& x, const DrawName& name,
                                        std::vector<uint8_t>& counts) {
      real(x, name, counts);
      for (int64_t i = 0; i < x.n; ++i) {
        for (int64_t j = 0; j < i; ++j) {
          std::swap(counts[static_cast<size_t>(i * x.m + j)],
                    counts[static_cast<size_t>(j * x.m + i)]);
        }
      }
    };
    EXPECT_NE(check_law(mutant, c, kDraws), "");
  }
}

TEST(SamplerMutants, TheRateInPlaceOfTheCollapsedProbabilityIsRejected) {
  SbmCase c = structured_case("uniform");
  c.law = MaskLaw::kPoissonCollapse;
  for (const GraphSampler& real : real_samplers()) {
    EXPECT_EQ(check_law(real, c, kDraws), "");
    const GraphSampler mutant = [&real](const SbmCase& x, const DrawName& name,
                                        std::vector<uint8_t>& counts) {
      SbmCase rate = x;
      rate.law = MaskLaw::kBernoulli;
      real(rate, name, counts);
    };
    EXPECT_NE(check_law(mutant, c, kDraws), "");
  }
}

TEST(SamplerMutants, DroppingDeltaIsRejectedUnderEveryLaw) {
  SbmCase c = structured_case("uniform");
  c.delta = 0.01f;
  for (MaskLaw law : kAllLaws) {
    c.law = law;
    for (const GraphSampler& real : real_samplers()) {
      EXPECT_EQ(check_law(real, c, kDraws), "");
      const GraphSampler mutant = [&real](const SbmCase& x, const DrawName& name,
                                          std::vector<uint8_t>& counts) {
        SbmCase unexplored = x;
        unexplored.delta = 0.0f;
        real(unexplored, name, counts);
      };
      EXPECT_NE(check_law(mutant, c, kDraws), "");
    }
  }
}

TEST(SamplerMutants, OneStreamForTwoHeadsIsRejected) {
  SbmCase c = structured_case("anti-diagonal");
  const SbmCase one = c;
  c.heads = 2;
  c.mu.insert(c.mu.end(), one.mu.begin(), one.mu.end());
  c.z.insert(c.z.end(), one.z.begin(), one.z.end());
  const auto same_name = [](DrawName&) {};
  for (const GraphSampler& real : real_samplers()) {
    EXPECT_EQ(check_independent(real, c, 1, same_name, kDraws), "");
    const GraphSampler mutant = [&](const SbmCase&, const DrawName& name,
                                    std::vector<uint8_t>& counts) {
      real(one, name, counts);
      const std::vector<uint8_t> head = counts;
      counts.insert(counts.end(), head.begin(), head.end());
    };
    EXPECT_NE(check_independent(mutant, c, 1, same_name, kDraws), "");
  }
}

/// Picks a key for weights, by what it finds in the generator.
using KeyPicker = std::function<int64_t(const std::vector<double>& weights, std::mt19937_64&)>;

/// The row method with library distributions.
void draw_rows(const SbmCase& c, uint64_t step, const KeyPicker& pick,
               std::vector<uint8_t>& counts) {
  std::mt19937_64 generator(splitmix64(step));
  counts.assign(static_cast<size_t>(c.n * c.m), 0);
  std::vector<double> weights(static_cast<size_t>(c.m));
  for (int64_t i = 0; i < c.n; ++i) {
    for (int64_t j = 0; j < c.m; ++j) weights[static_cast<size_t>(j)] = c.dot(0, i, j);
    const double rate = sum(weights);
    if (rate == 0) continue;
    const int64_t draws = std::poisson_distribution<int64_t>(rate)(generator);
    for (int64_t e = 0; e < draws; ++e) {
      ++counts[static_cast<size_t>(i * c.m + pick(weights, generator))];
    }
  }
}

TEST(SamplerMutants, PrefixSumsThatAreOffByOneAreRejected) {
  SbmCase c = structured_case("empty rows and columns");
  c.law = MaskLaw::kPoissonMulti;
  const auto sampler = [](int64_t offset) -> GraphSampler {
    return [offset](const SbmCase& x, const DrawName& name, std::vector<uint8_t>& counts) {
      const KeyPicker pick = [&](const std::vector<double>& weights, std::mt19937_64& generator) {
        return std::min(weighted_pick(weights, generator) + offset, x.m - 1);
      };
      draw_rows(x, name.step, pick, counts);
    };
  };
  EXPECT_EQ(check_law(sampler(0), c, 2000), "");
  EXPECT_NE(check_law(sampler(1), c, 2000), "");
  for (const GraphSampler& real : real_samplers()) EXPECT_EQ(check_law(real, c, kDraws), "");
}

/// Draws from alias tables that have been tampered with.
KeyPicker alias_picker(const std::function<void(AliasTable&)>& tamper) {
  return [tamper](const std::vector<double>& weights, std::mt19937_64& generator) -> int64_t {
    Weights fixed;
    for (double w : weights) fixed.push_back(static_cast<uint32_t>(w * 0x1p24));
    AliasTable table = make_alias_table(fixed);
    tamper(table);
    return kernels::math::draw_item(table.data(), static_cast<int64_t>(table.size()), generator());
  };
}

TEST(SamplerMutants, AliasTablesWithWrongEntriesAreRejected) {
  SbmCase c = structured_case("empty rows and columns");
  c.law = MaskLaw::kPoissonMulti;
  const auto verdict = [&c](const std::function<void(AliasTable&)>& tamper) {
    const GraphSampler sampler = [&tamper](const SbmCase& x, const DrawName& name,
                                           std::vector<uint8_t>& counts) {
      draw_rows(x, name.step, alias_picker(tamper), counts);
    };
    return check_law(sampler, c, kDraws);
  };
  EXPECT_EQ(verdict([](AliasTable&) {}), "");
  EXPECT_NE(verdict([](AliasTable& table) {
              for (AliasEntry& entry : table) entry.threshold /= 2;
            }),
            "");
  EXPECT_NE(verdict([](AliasTable& table) {
              for (size_t b = 0; b + 1 < table.size(); b += 2) {
                std::swap(table[b].alias, table[b + 1].alias);
              }
            }),
            "");
}

/// Draws from a running sum in float, which loses every weight below half a unit in its last place.
std::vector<int64_t> float_prefix_keys(const std::vector<float>& weights, int64_t draws) {
  std::vector<float> prefix;
  float running = 0.0f;
  for (float w : weights) prefix.push_back(running += w);
  std::mt19937 generator(5);
  std::vector<int64_t> keys;
  for (int64_t e = 0; e < draws; ++e) {
    const float u = to_unit_float(static_cast<uint32_t>(generator())) * running;
    keys.push_back(std::upper_bound(prefix.begin(), prefix.end(), u) - prefix.begin());
  }
  return keys;
}

/// The real sampler: one cluster, one query per row of draws.
std::vector<int64_t> real_keys(const std::vector<float>& weights, int64_t draws) {
  const auto m = static_cast<int64_t>(weights.size());
  double total = 0;
  for (float w : weights) total += static_cast<double>(w);
  constexpr int64_t kQueries = 64;
  const std::vector<float> mu(kQueries,
                              static_cast<float>(static_cast<double>(draws) / kQueries / total));
  Arena arena("scratch", kCpuDevice, size_t{1} << 23);
  kernels::EdgeSet graph;
  graph.num_queries = kQueries;
  graph.num_keys = m;
  const kernels::SampleEdges args{.edges = graph,
                                  .mu = {mu.data(), {1, 1, kQueries, 1}},
                                  .z = {weights.data(), {1, 1, m, 1}},
                                  .expected = {},
                                  .samples = {},
                                  .law = MaskLaw::kPoissonMulti,
                                  .sampler = SamplerKind::kRows};
  const kernels::cpu::SampleScratch scratch =
      kernels::cpu::alloc_sample_scratch(arena, args, /*threads=*/1);
  const kernels::cpu::SampleProblem problem{.mu = mu.data(),
                                            .z = weights.data(),
                                            .num_queries = kQueries,
                                            .num_keys = m,
                                            .num_clusters = 1,
                                            .law = args.law,
                                            .key = {3, 4}};
  kernels::cpu::RowSampler sampler(problem, scratch, 0);
  std::vector<int64_t> keys;
  for (int64_t i = 0; i < kQueries; ++i) {
    const int64_t degree = sampler.sample(i);
    for (int64_t e = 0; e < degree; ++e) {
      const uint32_t key = sampler.keys()[e];
      keys.insert(keys.end(), sampler.take_count(key), static_cast<int64_t>(key));
    }
  }
  return keys;
}

TEST(SamplerMutants, FloatPrefixSumsOverManyKeysAreRejected) {
  // After 65,536 weights of 1 a float sum no longer notices weights of 0.003, though together they
  // are 0.3 % of all.
  std::vector<float> weights(size_t{1} << 17, 0.003f);
  std::fill_n(weights.begin(), weights.size() / 2, 1.0f);
  constexpr int64_t kKeys = 200000;
  EXPECT_EQ(check_key_share(real_keys, weights, weights.size() / 2, kKeys), "");
  EXPECT_NE(check_key_share(float_prefix_keys, weights, weights.size() / 2, kKeys), "");
}

}  // namespace
}  // namespace stipple::test
