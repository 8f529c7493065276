// SPDX-License-Identifier: Apache-2.0
#include "model/facts.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>
#include <vector>

namespace stipple::model {
namespace {

TEST(Facts, EveryDeclaredValueHasAPlaceOfItsOwn) {
  FactTable table(3);
  const FactId edges = table.declare_per_layer<int64_t>("edges", 5);
  const FactId cells = table.declare_per_layer<float>("cells", 3, Unite::kSame);
  const FactId overflow = table.declare_per_layer<int32_t>("overflow");
  const FactId confusion = table.declare<int64_t>("confusion", 4);
  std::vector<int64_t> words(table.bytes() / sizeof(int64_t));
  const Facts facts(table, words.data());
  int64_t next = 1;
  const auto fill = [&](auto view) {
    for (int64_t i = 0; i < view.numel(); ++i)
      view[i] = static_cast<std::remove_cvref_t<decltype(view[i])>>(next++);
  };
  const auto check = [&](auto view) {
    for (int64_t i = 0; i < view.numel(); ++i) EXPECT_EQ(static_cast<int64_t>(view[i]), next++);
  };
  const auto visit = [&](auto use) {
    use(facts.at<int64_t>(confusion));
    for (int64_t layer = 0; layer < table.layers(); ++layer) {
      use(facts.at<int64_t>(edges, layer));
      use(facts.at<float>(cells, layer));
      use(facts.at<int32_t>(overflow, layer));
    }
  };
  visit(fill);
  next = 1;
  visit(check);
}

TEST(Facts, LayersShareADeclarationAndContradictionsAreErrors) {
  FactTable table(2);
  const FactId edges = table.declare_per_layer<int64_t>("edges", 4);
  const size_t bytes = table.bytes();
  EXPECT_EQ(table.declare_per_layer<int64_t>("edges", 4).index, edges.index);
  EXPECT_EQ(table.bytes(), bytes);
  EXPECT_THROW(table.declare_per_layer<int64_t>("edges", 5), Error);
  EXPECT_THROW(table.declare_per_layer<double>("edges", 4), Error);
  EXPECT_THROW(table.declare<int64_t>("edges", 4), Error);
  EXPECT_FALSE(table.find("pairs").exists());
}

TEST(Facts, AreNotToldOutsideForwardNorAsAnotherType) {
  FactTable table(1);
  const FactId edges = table.declare_per_layer<int64_t>("edges");
  EXPECT_THROW(Facts().at<int64_t>(edges), Error);
  EXPECT_THROW((Facts{table, nullptr}.at<double>(edges)), Error);
  EXPECT_EQ((Facts{table, nullptr}.at<int64_t>(edges).data), nullptr);
}

}  // namespace
}  // namespace stipple::model
