// SPDX-License-Identifier: Apache-2.0
// Walker's alias tables: an item of n is drawn by its weight with one access of 8 bytes, whatever
// n is. Bucket b of a table keeps item b for the fractions below its threshold and gives the others
// to its alias. Everything is an integer (or a double that holds one), so that the table is a pure
// function of the weights, however it is made:
//   Weights are multiplied by n, so that a bucket of average size is W, the sum of the weights.
//   Light items (n w < W) and heavy ones (n w > W) are taken in order; every light item's deficit
//   is filled from the current heavy item, which is closed as soon as no more than W is left of it:
//   its own bucket, filled up by the next heavy item.
// With running sums of deficits D over light and of surpluses E over heavy items this says: the
// light item after deficits D has as alias the first heavy item with E > D, and the heavy item with
// running sum E keeps W + E - D', D' being the first running sum of deficits that reaches E. So
// each entry can be made by itself (AliasLists); one pass over all of them is the same
// (kernels/cpu/sample/scalar.cpp).
// Bounds: W below 2^53, and n W, which no sum of deficits exceeds, below 2^64.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/host_device.h"
#include "kernels/math/poisson.h"

namespace stipple::kernels::math {

struct alignas(8) AliasEntry {
  uint32_t alias;      ///< itself, where the bucket has room for one item only
  uint32_t threshold;  ///< fractions below it are the bucket's own item
};

/// Of a bucket that holds its own item only.
STIPPLE_HD [[gnu::always_inline]] inline AliasEntry full_entry(int64_t item) {
  return {static_cast<uint32_t>(item), ~uint32_t{0}};
}

/// What filled parts of buckets are multiplied by to become thresholds.
STIPPLE_HD [[gnu::always_inline]] inline double threshold_scale(uint64_t total) {
  return 0x1p32 / static_cast<double>(total);
}
/// `part` of a bucket of W, below W: floor(2^32 part / W), but for the rounding of the two factors.
STIPPLE_HD [[gnu::always_inline]] inline uint32_t alias_threshold(double part, double scale) {
  return static_cast<uint32_t>(static_cast<int64_t>(part * scale));
}

/// The item that a 64-bit uniform draws: its product with n is a bucket and a fraction.
STIPPLE_HD [[gnu::always_inline]] inline uint32_t draw_item(const AliasEntry* entries, int64_t n,
                                                            uint64_t uniform) {
  const auto size = static_cast<uint64_t>(n);
  const uint64_t bucket = multiply_high(uniform, size);
  const auto fraction = static_cast<uint32_t>(uniform * size >> 32);
  const AliasEntry entry = entries[bucket];
  return fraction < entry.threshold ? static_cast<uint32_t>(bucket) : entry.alias;
}

/// The items of one table that are not exactly average, ready for each entry to be made by itself.
struct AliasLists {
  uint64_t total = 0;  ///< W
  double scale = 0.0;  ///< of thresholds
  int64_t num_light = 0;
  int64_t num_heavy = 0;
  const uint32_t* light = nullptr;  // items, ascending
  const uint32_t* heavy = nullptr;
  const uint64_t* deficits = nullptr;   // running sums up to and including each light item
  const uint64_t* surpluses = nullptr;  // and each heavy one

  STIPPLE_HD AliasEntry light_entry(int64_t i) const {
    const uint64_t before = i == 0 ? 0 : deficits[i - 1];
    const uint64_t* filler = std::upper_bound(surpluses, surpluses + num_heavy, before);
    return {heavy[filler - surpluses], threshold(total - (deficits[i] - before))};
  }

  STIPPLE_HD AliasEntry heavy_entry(int64_t j) const {
    const uint64_t* filled = std::lower_bound(deficits, deficits + num_light, surpluses[j]);
    const uint64_t missing = *filled - surpluses[j];
    return missing == 0 ? full_entry(heavy[j])
                        : AliasEntry{heavy[j + 1], threshold(total - missing)};
  }

 private:
  STIPPLE_HD uint32_t threshold(uint64_t part) const {
    return alias_threshold(static_cast<double>(part), scale);
  }
};

}  // namespace stipple::kernels::math
