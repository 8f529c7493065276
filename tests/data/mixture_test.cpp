// SPDX-License-Identifier: Apache-2.0
#include "data/shards/mixture.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace stipple::data::shards {
namespace {

std::string what_parsing_says(std::string_view text) {
  try {
    parse_mixture(text, "key");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "nothing";
}

TEST(Mixture, NamesShardsWithWeightsOrWithout) {
  EXPECT_EQ(parse_mixture("corpus/wiki", "key"), (std::vector<WeightedShard>{{"corpus/wiki", 0}}));
  EXPECT_EQ(parse_mixture("a, b.bin", "key"), (std::vector<WeightedShard>{{"a", 0}, {"b.bin", 0}}));
  EXPECT_EQ(parse_mixture("a:0.75,b:2e1", "key"),
            (std::vector<WeightedShard>{{"a", 0.75}, {"b", 20}}));
  EXPECT_EQ(parse_mixture("host:a/b", "key"), (std::vector<WeightedShard>{{"host:a/b", 0}}));
}

TEST(Mixture, TellsWhatIsWrong) {
  EXPECT_EQ(what_parsing_says("a:0"), "key: a has a weight of 0; weights are positive");
  EXPECT_EQ(what_parsing_says("a:inf"), "key: a has a weight of inf; weights are positive");
  EXPECT_EQ(what_parsing_says("a,,b"),
            "key: a name is empty; it is to be PREFIX or PREFIX:WEIGHT, separated by commas");
  EXPECT_EQ(what_parsing_says(":2"),
            "key: a name is empty; it is to be PREFIX or PREFIX:WEIGHT, separated by commas");
  EXPECT_EQ(what_parsing_says("a:1,b"),
            "key: b has no weight, others do; give one to all shards, or to none to show each of "
            "them whole");
  EXPECT_EQ(
      what_parsing_says("a,b:1"),
      "key: b has a weight, others have none; give one to all shards, or to none to show each of "
      "them whole");
}

}  // namespace
}  // namespace stipple::data::shards
