// SPDX-License-Identifier: Apache-2.0
// A partition's passes and regions against what the definition says a query sees.
#include "kernels/partition.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <tuple>

#include "kernels/partition_places.h"
#include "tests/kernels/combine_reference.h"

namespace stipple::test {
namespace {

using kernels::Line;
using kernels::Pass;
using kernels::PassPlace;
using kernels::Region;
using kernels::Relation;
using kernels::reference::Seen;
using kernels::reference::seen_by;
using kernels::reference::SeenRegion;

std::vector<int64_t> list_of(const Line& line) {
  std::vector<int64_t> list;
  for (int64_t e = 0; e < line.count; ++e) list.push_back(line[e]);
  return list;
}

struct Keys {
  std::multiset<int64_t> direct, regions;
};

/// What each query sees by the passes. Regions of no token are left out: nobody sees them.
std::vector<Keys> seen_by_passes(const Partition& p) {
  std::vector<Keys> all(static_cast<size_t>(p.length));
  for (int64_t g = 0; g < p.num_passes(); ++g) {
    const Pass pass = p.pass(g);
    EXPECT_LE(pass.keys.count, p.longest_pass());
    for (int64_t a = 0; a < pass.queries.count; ++a) {
      for (int64_t b = 0; b < pass.keys.count; ++b) {
        if (!pass.has(a, b)) continue;
        EXPECT_LT(b, pass.key_end(a));
        Keys& keys = all.at(static_cast<size_t>(pass.queries[a]));
        if (!pass.of_regions) {
          keys.direct.insert(pass.keys[b]);
        } else if (p.region(pass.keys[b]).tokens.count > 0) {
          keys.regions.insert(pass.keys[b]);
        }
      }
    }
  }
  return all;
}

// --- places --------------------------------------------------------------------------------------

/// A pass, all of it, and a place in it.
using Stand = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, Relation,
                         int64_t, int64_t, int64_t>;
Stand stand(const Pass& p, int64_t place) {
  return {
      p.queries.first, p.queries.stride, p.queries.count, p.keys.first, p.keys.stride, p.keys.count,
      p.of_regions,    p.relation,       p.unit,          p.shift,      place};
}
using Stands = std::map<int64_t, std::multiset<Stand>>;

void add_places(Stands& all, int64_t of, int count, const std::function<PassPlace(int)>& at) {
  for (int t = 0; t < count; ++t) {
    const PassPlace found = at(t);
    if (found.place >= 0 && !found.pass.is_empty()) all[of].insert(stand(found.pass, found.place));
  }
}

/// What partition_places.h says is what a walk over all passes and regions finds.
void check_places(const Partition& p) {
  Stands queries, tokens, regions;
  std::map<int64_t, std::multiset<int64_t>> members;
  for (int64_t g = 0; g < p.num_passes(); ++g) {
    const Pass pass = p.pass(g);
    if (pass.is_empty()) continue;
    for (int64_t a = 0; a < pass.queries.count; ++a)
      queries[pass.queries[a]].insert(stand(pass, a));
    for (int64_t b = 0; b < pass.keys.count; ++b)
      (pass.of_regions ? regions : tokens)[pass.keys[b]].insert(stand(pass, b));
  }
  for (int64_t r = 0; r < p.num_regions(); ++r) {
    for (int64_t j : list_of(p.region(r).tokens)) members[j].insert(r);
  }
  Stands as_query, as_key, as_region;
  std::map<int64_t, std::multiset<int64_t>> belongs;
  for (int64_t i = 0; i < p.length; ++i) {
    add_places(as_query, i, num_query_places(p), [&](int t) { return query_place(p, i, t); });
    add_places(as_key, i, num_key_places(p), [&](int t) { return key_place(p, i, t); });
    for (int t = 0; t < num_region_lines(p); ++t) {
      for (int64_t r : list_of(regions_of(p, i, t))) belongs[i].insert(r);
    }
  }
  for (int64_t r = 0; r < p.num_regions(); ++r)
    add_places(as_region, r, 1, [&](int) { return region_place(p, r); });
  EXPECT_EQ(as_query, queries);
  EXPECT_EQ(as_key, tokens);
  EXPECT_EQ(as_region, regions);
  EXPECT_EQ(belongs, members);
}

void check_partition(const Partition& p) {
  SCOPED_TRACE(describe(p));
  check_places(p);
  const std::vector<Keys> passes = seen_by_passes(p);
  for (int64_t r = 0; r < p.num_regions(); ++r)
    EXPECT_LE(p.region(r).tokens.count, p.longest_region());
  for (int64_t i = 0; i < p.length; ++i) {
    const Seen seen = seen_by(p, i);
    const Keys& keys = passes[static_cast<size_t>(i)];
    EXPECT_EQ(keys.direct, std::multiset<int64_t>(seen.direct.begin(), seen.direct.end())) << i;
    std::multiset<int64_t> regions;
    std::map<int64_t, int> covered;
    for (int64_t j : seen.direct) ++covered[j];
    for (const SeenRegion& region : seen.regions) {
      if (region.tokens.empty()) continue;
      regions.insert(region.number);
      const Region own = p.region(region.number);
      EXPECT_EQ(list_of(own.tokens), region.tokens) << i << " sees " << region.number;
      EXPECT_EQ(own.asks, region.asks);
      for (int64_t j : region.tokens) ++covered[j];
    }
    EXPECT_EQ(keys.regions, regions) << i;
    for (int64_t j = 0; j < p.length; ++j) {
      const bool may = !p.is_causal || j <= i;
      const bool once = p.kind != PartitionKind::kMixture && !p.overlaps_own;
      EXPECT_TRUE(may ? (once ? covered[j] == 1 : covered[j] >= 1) : covered[j] == 0)
          << "query " << i << " sees token " << j << " " << covered[j] << " times";
    }
  }
}

TEST(Partition, PassesAreWhatTheDefinitionSaysAndCoverEveryTokenOnce) {
  for (int64_t n = 1; n <= 18; ++n) {
    for (int64_t size : {1, 2, 3, 4, 7, 18}) {
      for (Partition p : partitions_of(n, size, size)) check_partition(p);
    }
  }
  for (Partition p : partitions_of(33, 8, 6)) check_partition(p);
}

TEST(Partition, SoItIsWithOptions) {
  for (int64_t n : {1, 5, 17}) {
    for (Partition p : partitions_of(n)) {
      for (int64_t globals : {1, 3}) {
        p.globals = std::min(globals, n);
        check_partition(p);
      }
      p.globals = 0;
      p.overlaps_own = true;
      check_partition(p);
      p.overlaps_own = false;
      p.shift = p.kind == PartitionKind::kFixed ? 2 : 0;
      check_partition(p);
      p.globals = 1;
      check_partition(p);
    }
  }
}

TEST(Partition, TheLastOfTwoToTheKPlusOneTokensSeesAllOfThem) {
  for (int64_t n : {2, 3, 5, 9, 17, 33, 65}) {
    const Partition p{.kind = PartitionKind::kLogsparse, .is_causal = true, .length = n};
    const std::vector<Keys> seen = seen_by_passes(p);
    size_t tokens = seen.back().direct.size();
    for (int64_t r : seen.back().regions) tokens += static_cast<size_t>(p.region(r).tokens.count);
    EXPECT_EQ(tokens, static_cast<size_t>(n));
  }
}

TEST(Partition, KeysPerQueryAreAsFewAsTheVariantPromises) {
  const auto keys_of = [](const Partition& p, size_t i) {
    const Keys keys = seen_by_passes(p)[i];
    return keys.direct.size() + keys.regions.size();
  };
  const int64_t n = 64;
  EXPECT_EQ(keys_of({.kind = PartitionKind::kFixed, .length = n, .block = 8}, 20), 8u + 7u);
  EXPECT_EQ(keys_of({.kind = PartitionKind::kLogsparse, .length = n}, 20), 1u + 6u);
  EXPECT_EQ(keys_of({.kind = PartitionKind::kRowMajor, .length = n, .columns = 8}, 20), 15u);
  EXPECT_EQ(keys_of({.kind = PartitionKind::kVertical, .length = n, .columns = 8}, 20), 15u + 14u);
  EXPECT_EQ(keys_of({.kind = PartitionKind::kMixture, .length = n, .columns = 8}, 20), 15u + 28u);
}

}  // namespace
}  // namespace stipple::test
