// SPDX-License-Identifier: Apache-2.0
#include "core/real_view.h"

#include <gtest/gtest.h>

#include <array>
#include <type_traits>

#include "core/arena.h"

namespace stipple {
namespace {

// What an operation only reads cannot be written through, and storage is not guessed from a void
// pointer.
static_assert(std::is_convertible_v<View<const bf16>, ConstRealView>);
static_assert(std::is_convertible_v<RealView, ConstRealView>);
static_assert(!std::is_convertible_v<View<const float>, RealView>);
static_assert(!std::is_convertible_v<ConstRealView, RealView>);
static_assert(!std::is_constructible_v<RealView, View<double>>);
static_assert(!std::is_constructible_v<RealView, void*, Shape>);

TEST(RealView, KnowsItsStorage) {
  std::array<bf16, 6> memory{};
  const RealView view = View<bf16>{memory.data(), {2, 3}};
  EXPECT_EQ(view.precision, Precision::kBf16);
  EXPECT_EQ(view.bytes(), 12u);
  EXPECT_EQ(view.as<bf16>().data, memory.data());
  EXPECT_EQ(view.reshape({6}).as<bf16>().shape, Shape({6}));
  EXPECT_THROW(view.reshape({5}), ShapeError);
}

TEST(RealView, RefusesTheOtherStorageByName) {
  std::array<bf16, 6> memory{};
  const ConstRealView view = View<bf16>{memory.data(), {2, 3}};
  try {
    view.floats();
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[2, 3] is stored as bf16"), std::string::npos);
  }
  EXPECT_TRUE(ConstRealView().floats().empty()) << "an array that was not given has no storage";
}

TEST(RealView, ArraysOfAnOperationMustAgreeUnlessTheyWereNotGiven) {
  std::array<float, 2> floats{};
  std::array<bf16, 2> halves{};
  const ConstRealView a(floats.data(), {2});
  const ConstRealView b(halves.data(), {2});
  EXPECT_NO_THROW(check_same_storage("op", {b, {}, b}));
  EXPECT_THROW(check_same_storage("op", {{}, a, b}), Error);
}

TEST(RealView, AnArenaCountsWhatIsStored) {
  Arena arena("plan");
  arena.alloc(Precision::kFp32, {64});
  EXPECT_EQ(arena.used(), 256u);
  arena.alloc(Precision::kBf16, {64});
  EXPECT_EQ(arena.used(), 384u);
}

}  // namespace
}  // namespace stipple
