// SPDX-License-Identifier: Apache-2.0
#include "model/parameter_store.h"

#include "core/error.h"
#include "tests/support/arrays.h"

namespace stipple::model {
namespace {

using test::Array;

TEST(ParameterStore, LaysTensorsOutInReverseOn128ByteBoundaries) {
  ParameterStore store;
  const ParamId a = store.declare("a", {3, 5}, Init::constant(1));
  const ParamId b = store.declare("b", {32}, Init::constant(2));
  const ParamId c = store.declare("c", {33}, Init::constant(3), Decay::kNo);
  store.allocate(kCpuDevice);
  EXPECT_EQ(store.entry(c).range, (Range{0, 33}));
  EXPECT_EQ(store.entry(b).range, (Range{64, 96}));
  EXPECT_EQ(store.entry(a).range, (Range{96, 111}));
  EXPECT_EQ(store.numel(), 128);
  EXPECT_EQ(store.num_parameters(), 15 + 32 + 33);
  EXPECT_EQ(store.value(a).shape, (Shape{3, 5}));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(store.value(a).data) % 128, 0u);
  EXPECT_EQ(store.entry(c).decay, Decay::kNo);
  EXPECT_EQ(store.entry(a).decay, Decay::kYes);
}

TEST(ParameterStore, RangesOfNeighboursTouch) {
  ParameterStore store;
  const ParamId a = store.declare("a", {3}, Init{});
  const ParamId b = store.declare("b", {40}, Init{});
  const ParamId c = store.declare("c", {7}, Init{});
  store.allocate(kCpuDevice);
  EXPECT_EQ(store.range(c, c), (Range{0, 32}));
  EXPECT_EQ(store.range(b, b), (Range{32, 96}));
  EXPECT_EQ(store.range(a, a), (Range{96, store.numel()}));
  EXPECT_EQ(store.range(a, c), (Range{0, store.numel()}));
  EXPECT_THROW(store.range(c, a), Error);
}

TEST(ParameterStore, InitIsAFunctionOfSeedNameAndElement) {
  ParameterStore alone, among;
  const ParamId a = alone.declare("w", {100}, Init::normal(1));
  among.declare("other", {17}, Init::uniform(1));
  const ParamId b = among.declare("w", {100}, Init::normal(1));
  const ParamId c = among.declare("v", {100}, Init::normal(1));
  for (ParameterStore* store : {&alone, &among}) {
    store->allocate(kCpuDevice);
    store->initialize(Stream(kCpuDevice), 7);
  }
  const auto values = [](View<float> v) { return std::vector<float>(v.data, v.data + 100); };
  const std::vector<float> first = values(alone.value(a));
  EXPECT_EQ(first, values(among.value(b)));
  EXPECT_NE(first, values(among.value(c)));
  alone.initialize(Stream(kCpuDevice), 8);
  EXPECT_NE(first, values(alone.value(a)));
  alone.initialize(Stream(kCpuDevice), 7);
  EXPECT_EQ(first, values(alone.value(a)));
}

TEST(ParameterStore, InitsHaveTheirMoments) {
  constexpr int64_t kCount = 40000;
  ParameterStore store;
  const ParamId normal = store.declare("normal", {kCount}, Init::normal(0.5));
  const ParamId uniform = store.declare("uniform", {kCount}, Init::uniform(0.5));
  const ParamId constant = store.declare("constant", {5}, Init::constant(0.5));
  store.allocate(kCpuDevice);
  store.initialize(Stream(kCpuDevice), 3);
  const auto moment = [&](ParamId id, int power) {
    double sum = 0;
    for (const float x : store.value(id).span()) sum += std::pow(static_cast<double>(x), power);
    return sum / kCount;
  };
  // five standard errors of each moment
  EXPECT_NEAR(moment(normal, 1), 0.0, 5 * 0.5 / 200);
  EXPECT_NEAR(moment(normal, 2), 0.25, 5 * 0.25 * std::sqrt(2.0) / 200);
  EXPECT_NEAR(moment(normal, 4), 3.0 / 16, 5 * std::sqrt(96.0) / 16 / 200);
  EXPECT_NEAR(moment(uniform, 1), 0.0, 5 * 0.5 / std::sqrt(3.0) / 200);
  EXPECT_NEAR(moment(uniform, 2), 0.25 / 3, 5 * 0.075 / 200);
  for (const float x : store.value(uniform).span()) ASSERT_LE(std::abs(x), 0.5f);
  for (const float x : store.value(constant).span()) EXPECT_EQ(x, 0.5f);
}

TEST(ParameterStore, BertsRuleFillsLinearLayersAndTables) {
  constexpr int64_t kCount = 40000;
  const auto filled = [](InitRule rule) {
    auto store = std::make_unique<ParameterStore>();
    store->declare("weight", {200, 200}, Init::uniform(0.5).usual());
    store->declare("bias", {200}, Init::uniform(0.5).usual());
    store->declare("norm", {200}, Init::constant(1));
    store->declare("clusters", {200, 200}, Init::normal(0.3));
    store->allocate(kCpuDevice);
    store->initialize(Stream(kCpuDevice), 3, rule);
    return store;
  };
  const auto of = [](const ParameterStore& store, const char* name) {
    const auto values = store.value(*store.find(name)).span();
    return std::vector<float>(values.begin(), values.end());
  };
  const auto modules = filled(InitRule::kModules), bert = filled(InitRule::kBert);
  // What is no linear layer keeps its own.
  EXPECT_EQ(of(*bert, "norm"), of(*modules, "norm"));
  EXPECT_EQ(of(*bert, "clusters"), of(*modules, "clusters"));
  EXPECT_EQ(of(*bert, "bias"), std::vector<float>(200, 0.0f));
  EXPECT_NE(of(*modules, "bias"), of(*bert, "bias"));
  double sum = 0, squares = 0, most = 0;
  for (const float x : of(*bert, "weight")) {
    sum += static_cast<double>(x);
    squares += static_cast<double>(x) * static_cast<double>(x);
    most = std::max(most, std::abs(static_cast<double>(x)));
  }
  // A normal distribution cut at two deviations has 0.7737 of its variance.
  EXPECT_NEAR(sum / kCount, 0.0, 5 * 0.0176 / 200);
  EXPECT_NEAR(squares / kCount / 4e-4, 0.7737, 5 * 0.72 / 200);
  EXPECT_LE(most, 0.04);
  EXPECT_GT(most, 0.0399);
}

TEST(ParameterStore, DirectionsHaveLengthOneAndPointEverywhere) {
  constexpr int64_t kCount = 4000;
  ParameterStore store;
  const ParamId id = store.declare("directions", {2, kCount / 2, 3}, Init::directions());
  store.allocate(kCpuDevice);
  store.initialize(Stream(kCpuDevice), 3);
  double sums[3] = {}, squares[3] = {};
  for (int64_t row = 0; row < kCount; ++row) {
    double length = 0;
    for (int64_t e = 0; e < 3; ++e) {
      const auto x = static_cast<double>(store.value(id)[row * 3 + e]);
      length += x * x, sums[e] += x / kCount, squares[e] += x * x / kCount;
    }
    EXPECT_NEAR(length, 1.0, 1e-6);
  }
  // five standard errors: a coordinate's variance is 1/3, that of its square 4/45
  for (const double sum : sums) EXPECT_NEAR(sum, 0.0, 5 * std::sqrt(1.0 / 3 / kCount));
  for (const double square : squares)
    EXPECT_NEAR(square, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kCount));
}

TEST(ParameterStore, EachSecondOfOppositesIsTheOppositeOfTheOneBefore) {
  ParameterStore store;
  const ParamId all = store.declare("directions", {2, 6, 3}, Init::directions());
  const ParamId id = store.declare("opposites", {2, 6, 3}, Init::opposites());
  store.allocate(kCpuDevice);
  store.initialize(Stream(kCpuDevice), 3);
  const View<float> x = store.value(id);
  for (int64_t row = 0; row < 12; row += 2) {
    double length = 0;
    for (int64_t e = row * 3; e < row * 3 + 3; ++e) {
      EXPECT_EQ(x[e + 3], -x[e]);
      length += static_cast<double>(x[e]) * static_cast<double>(x[e]);
    }
    EXPECT_NEAR(length, 1.0, 1e-6);
    EXPECT_TRUE(row == 0 || x[row * 3] != x[row * 3 - 6]);
  }
  EXPECT_NE(store.value(all)[3], -store.value(all)[0]);
}

TEST(ParameterStore, PaddingStaysZero) {
  ParameterStore store;
  store.declare("a", {3}, Init::constant(1));
  store.declare("b", {35}, Init::normal(1));
  store.allocate(kCpuDevice);
  store.initialize(Stream(kCpuDevice), 1);
  std::vector<bool> used(static_cast<size_t>(store.numel()));
  for (const auto& entry : store.entries())
    for (int64_t i = entry.range.begin; i < entry.range.end; ++i)
      used[static_cast<size_t>(i)] = true;
  for (int64_t i = 0; i < store.numel(); ++i) {
    EXPECT_EQ(store.values()[i] != 0.0f, used[static_cast<size_t>(i)]) << i;
  }
}

TEST(ParameterStore, WhatIsFixedHasAStateOfItsOwnAndIsNoParameter) {
  ParameterStore store;
  store.declare("learned", {3}, Init::constant(1));
  const ParamId fixed = store.declare_fixed("fixed", {2, 2}, Init::normal(1));
  EXPECT_TRUE(store.has_fixed());
  EXPECT_EQ(store.num_parameters(), 3);
  store.allocate(kCpuDevice);
  store.initialize(Stream(kCpuDevice), 3);
  EXPECT_NE(store.value(fixed)[0], 0.0f);
  struct Names final : StateVisitor {
    std::vector<std::string> all;
    void tensor(std::string_view name, const Shape&, View<float>, Range) override {
      all.emplace_back(name);
    }
    void count(std::string_view, int64_t&) override {}
    void number(std::string_view, double&) override {}
    void numbers(std::string_view, std::vector<double>&) override {}
  } learned, others;
  store.describe_state(learned, "parameter", store.values());
  store.describe_fixed(others);
  EXPECT_EQ(learned.all, std::vector<std::string>{"parameter/learned"});
  EXPECT_EQ(others.all, std::vector<std::string>{"fixed/fixed"});
}

TEST(ParameterStore, GradientsLiveWhereTheyWereBound) {
  ParameterStore store;
  store.declare("a", {3}, Init{});
  const ParamId b = store.declare("b", {2, 2}, Init{});
  store.allocate(kCpuDevice);
  EXPECT_THROW(store.grad(b), Error);
  Array<float> first({store.numel()}), second({store.numel()}), wrong({store.numel() + 1});
  store.bind_grads(first);
  EXPECT_EQ(store.grad(b).data, first.view().data + store.entry(b).range.begin);
  store.bind_grads(second);
  EXPECT_EQ(store.grad(b).data, second.view().data + store.entry(b).range.begin);
  EXPECT_EQ(store.grad(b).shape, (Shape{2, 2}));
  EXPECT_THROW(store.bind_grads(wrong), ShapeError);
}

TEST(ParameterStore, OnMetaThereIsALayoutButNoMemory) {
  ParameterStore store;
  const ParamId a = store.declare("a", {1000, 1000, 1000, 1000}, Init::normal(1));
  store.allocate(kMetaDevice);
  store.initialize(Stream(kCpuDevice), 1);
  EXPECT_EQ(store.numel(), 1000000000000);
  EXPECT_EQ(store.value(a).data, nullptr);
  EXPECT_EQ(store.grad(a).data, nullptr);
  EXPECT_EQ(store.grad(a).shape, store.entry(a).shape);
}

TEST(ParameterStore, NamesAreUniqueAndFound) {
  ParameterStore store;
  store.declare("a", {1}, Init{});
  const ParamId b = store.declare("b", {1}, Init{});
  EXPECT_THROW(store.declare("a", {2}, Init{}), Error);
  ASSERT_TRUE(store.find("b").has_value());
  EXPECT_EQ(store.find("b")->index, b.index);
  EXPECT_FALSE(store.find("c").has_value());
}

TEST(ParameterStore, CallsComeInOrder) {
  ParameterStore store;
  const ParamId a = store.declare("a", {1}, Init{});
  EXPECT_THROW(store.values(), Error);
  EXPECT_THROW(store.initialize(Stream(kCpuDevice), 1), Error);
  EXPECT_THROW(store.range(a, a), Error);
  store.allocate(kCpuDevice);
  EXPECT_THROW(store.declare("late", {1}, Init{}), Error);
  EXPECT_THROW(store.allocate(kCpuDevice), Error);
}

}  // namespace
}  // namespace stipple::model
