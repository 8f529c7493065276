// SPDX-License-Identifier: Apache-2.0
// Alias tables give every item its weight, exactly but for the 32 bits of a threshold, and are the
// same whoever makes them.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <string>

#include "core/cpu/isa.h"
#include "kernels/math/key_tables.h"
#include "tests/support/alias_tables.h"

namespace stipple::test {
namespace {

namespace math = kernels::math;

constexpr uint32_t kLargest = uint32_t{1} << math::weight_bits(1);

std::vector<Weights> random_columns(size_t n, size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  const auto pick = [&](uint32_t range) { return static_cast<uint32_t>(generator() % range); };
  std::vector<Weights> columns(count, Weights(n));
  for (size_t c = 0; c < count; ++c) {
    // From hardly any distinct weights, where whole buckets come out even, to all bits.
    const uint32_t range = c % 4 == 0 ? 2 : c % 4 == 1 ? 5 : c % 4 == 2 ? 1000 : kLargest;
    for (uint32_t& weight : columns[c]) weight = pick(3) == 0 ? 0 : pick(range);
  }
  return columns;
}

std::map<std::string, Weights> special_cases() {
  std::map<std::string, Weights> cases{{"one item", {1}},
                                       {"one item without weight", {0}},
                                       {"the last of three", {0, 0, 7}},
                                       {"the first of three", {7, 0, 0}},
                                       {"none", {0, 0, 0, 0}},
                                       {"all alike", Weights(37, kLargest)},
                                       {"every other", {}},
                                       {"chain of heavy items", {}},
                                       {"ascending", {}},
                                       {"descending", {}}};
  for (uint32_t j = 0; j < 100; ++j) {
    cases["every other"].push_back(j % 2 == 0 ? 0 : 2);
    cases["chain of heavy items"].push_back(j < 99 ? 100 : 1);
    cases["ascending"].push_back(j * j);
    cases["descending"].push_back((99 - j) * 1000003 % kLargest);
  }
  // The longest with the most bits, with the largest sums of deficits.
  Weights most(size_t{1} << 18, 0);
  std::fill_n(most.begin(), most.size() / 2, kLargest);
  cases["most keys"] = most;
  return cases;
}

std::vector<Weights> all_columns() {
  std::vector<Weights> all;
  for (const auto& [name, weights] : special_cases()) all.push_back(weights);
  for (const size_t n : std::initializer_list<size_t>{2, 7, 16, 33, 1000}) {
    for (const Weights& weights : random_columns(n, 8, static_cast<uint32_t>(n))) {
      all.push_back(weights);
    }
  }
  return all;
}

/// What buckets give to each item, in 2^-32 of a bucket, and in how many buckets it is the alias.
struct Shares {
  std::vector<uint64_t> mass;
  std::vector<uint64_t> buckets;
};
Shares shares_of(const AliasTable& table) {
  constexpr uint64_t kBucket = uint64_t{1} << 32;
  Shares shares{std::vector<uint64_t>(table.size()), std::vector<uint64_t>(table.size())};
  for (size_t b = 0; b < table.size(); ++b) {
    shares.mass[b] += table[b].threshold;
    shares.mass[table[b].alias] += kBucket - table[b].threshold;
    ++shares.buckets[table[b].alias];
  }
  return shares;
}

bool is_same(const AliasTable& a, const AliasTable& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](AliasEntry x, AliasEntry y) {
    return x.alias == y.alias && x.threshold == y.threshold;
  });
}

TEST(AliasTable, GivesEveryItemItsWeight) {
  for (const Weights& weights : all_columns()) {
    const uint64_t total = sum_of(weights);
    if (total == 0) continue;
    const Shares shares = shares_of(make_alias_table(weights));
    for (size_t j = 0; j < weights.size(); ++j) {
      const long double exact = static_cast<long double>(weights[j]) *
                                static_cast<long double>(weights.size()) * 0x1p32L /
                                static_cast<long double>(total);
      const auto mass = static_cast<long double>(shares.mass[j]);
      ASSERT_LE(std::abs(mass - exact), static_cast<long double>(shares.buckets[j]) + 1.001L)
          << weights.size() << " " << j;
    }
  }
}

TEST(AliasTable, NeverDrawsItemsWithoutWeight) {
  for (const Weights& weights : all_columns()) {
    if (sum_of(weights) == 0) continue;
    const AliasTable table = make_alias_table(weights);
    for (size_t b = 0; b < table.size(); ++b) {
      ASSERT_GT(weights[table[b].alias], 0u);
      if (weights[b] == 0) {
        ASSERT_EQ(table[b].threshold, 0u);
      }
    }
  }
}

TEST(AliasTable, IsTheSameMadeEntryByEntry) {
  for (const Weights& weights : all_columns()) {
    ASSERT_TRUE(is_same(alias_table_by_search(weights), make_alias_table(weights)))
        << weights.size();
  }
}

TEST(AliasTable, IsTheSameOnEveryInstructionSet) {
  const stipple::cpu::Isa before = stipple::cpu::isa();
  for (stipple::cpu::Isa isa : stipple::cpu::available_isas()) {
    stipple::cpu::set_isa(isa);
    const kernels::cpu::SampleKernels& kernels = kernels::cpu::sample_kernels();
    for (const auto& [name, weights] : special_cases()) {
      ASSERT_TRUE(is_same(make_alias_tables(kernels, {weights}).front(), make_alias_table(weights)))
          << isa_name(isa) << " " << name;
    }
    for (const size_t n : std::initializer_list<size_t>{1, 2, 7, 8, 16, 33, 1000}) {
      for (const size_t count : std::initializer_list<size_t>{1, 8, 11, 16}) {
        const auto columns = random_columns(n, count, static_cast<uint32_t>(n));
        const auto tables = make_alias_tables(kernels, columns);
        for (size_t c = 0; c < count; ++c) {
          ASSERT_TRUE(is_same(tables[c], make_alias_table(columns[c])))
              << isa_name(isa) << " " << n << " " << count << " " << c;
        }
      }
    }
  }
  stipple::cpu::set_isa(before);
}

TEST(AliasTable, DrawsByTheBucketAndTheFractionOfTheProduct) {
  constexpr uint64_t kItems = 3;
  const AliasTable table{{1, 0}, {2, uint32_t{1} << 31}, {2, ~uint32_t{0}}};
  const auto draw = [&](uint64_t uniform) {
    return math::draw_item(table.data(), kItems, uniform);
  };
  // The smallest uniforms whose products with 3 are in bucket b.
  const auto bucket = [](uint64_t b) { return b * (~uint64_t{0} / kItems) + (b > 0 ? 1 : 0); };
  EXPECT_EQ(draw(0), 1u);
  EXPECT_EQ(draw(bucket(1) - 1), 1u);
  EXPECT_EQ(draw(bucket(1)), 1u);
  const uint64_t half = bucket(1) + ~uint64_t{0} / kItems / 2;
  EXPECT_EQ(draw(half - (uint64_t{1} << 32)), 1u);
  EXPECT_EQ(draw(half + (uint64_t{1} << 32)), 2u);
  EXPECT_EQ(draw(bucket(2) - 1), 2u);
  EXPECT_EQ(draw(~uint64_t{0}), 2u);
}

TEST(AliasTable, WeightsAreAsFineAsSumsOfDeficitsAllow) {
  EXPECT_EQ(math::weight_bits(1), 26);
  EXPECT_EQ(math::weight_bits(1 << 18), 26);
  EXPECT_EQ(math::weight_bits((1 << 18) + 1), 24);
  for (int64_t n = 1; n <= int64_t{1} << 30; n *= 2) {
    const double largest_sum =
        static_cast<double>(n) * static_cast<double>(n) * std::ldexp(1.0, math::weight_bits(n));
    EXPECT_LE(largest_sum, 0x1p63) << n;
  }
}

TEST(AliasTable, WeightsOutsideTheirRangeAreCut) {
  EXPECT_EQ(math::fixed_weight(NAN, 1.0f, 26), 0);
  EXPECT_EQ(math::fixed_weight(-1.0f, 1.0f, 26), 0);
  EXPECT_EQ(math::fixed_weight(INFINITY, 1.0f, 26), 1 << 26);
  EXPECT_EQ(math::fixed_weight(0.75f, math::weight_scale(0.75f, 24), 24), 3 << 22);
}

}  // namespace
}  // namespace stipple::test
