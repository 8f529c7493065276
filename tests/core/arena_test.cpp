// SPDX-License-Identifier: Apache-2.0
#include "core/arena.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "core/error.h"

namespace stipple {
namespace {

template <class T>
bool is_aligned(const View<T>& view) {
  return reinterpret_cast<uintptr_t>(view.data) % Buffer::kAlignment == 0;
}

TEST(Arena, AlignsEveryAllocation) {
  Arena arena("a", kCpuDevice, 4096);
  for (int64_t n : {1, 3, 32, 33}) EXPECT_TRUE(is_aligned(arena.alloc<float>({n}))) << n;
  EXPECT_TRUE(is_aligned(arena.alloc<uint8_t>({5})));
}

TEST(Arena, AllocationsDoNotOverlap) {
  Arena arena("a", kCpuDevice, 4096);
  const View<float> first = arena.alloc<float>({33});
  const View<double> second = arena.alloc<double>({2, 3});
  EXPECT_GE(static_cast<void*>(second.data), static_cast<void*>(first.data + first.numel()));
  EXPECT_EQ(second.shape, (Shape{2, 3}));
}

TEST(Shape, ProductsThatNoMachineHoldsAreRefused) {
  const int64_t million = int64_t{1} << 20;
  EXPECT_EQ((Shape{million, million, 1 << 16}).numel(), Shape::kMaxElements);
  EXPECT_THROW((Shape{million, million, 1 << 17}), SizeError);
  EXPECT_THROW((Shape{million, million, million, million}), SizeError);  // 2^80
  EXPECT_THROW((Shape{int64_t{1} << 32, int64_t{1} << 32}), SizeError);  // 2^64 is 0 in 64 bits
  EXPECT_EQ((Shape{million, 0, million, million, million}).numel(), 0);
}

TEST(Arena, APlanStopsBeforeItsBytesOverflow) {
  Arena plan("plan");
  for (int i = 0; i < 8; ++i) plan.alloc<char>({Shape::kMaxElements});
  EXPECT_THROW(for (int i = 0; i < 9; ++i) plan.alloc<char>({Shape::kMaxElements}), SizeError);
}

TEST(Arena, GivesTheSameAddressesAfterRewind) {
  Arena arena("a", kCpuDevice, 4096);
  arena.alloc<float>({10});
  const Arena::Mark mark = arena.mark();
  float* before = arena.alloc<float>({100}).data;
  arena.rewind(mark);
  EXPECT_EQ(arena.alloc<float>({7}).data, before);
}

TEST(Arena, ScopeGivesMemoryBackAndThePeakRemains) {
  Arena arena("a", kCpuDevice, 4096);
  arena.alloc<uint8_t>({128});
  {
    const Arena::Scope scope(arena);
    arena.alloc<uint8_t>({256});
    EXPECT_EQ(arena.used(), 384u);
  }
  EXPECT_EQ(arena.used(), 128u);
  EXPECT_EQ(arena.peak(), 384u);
}

TEST(Arena, FillsToTheLastByteAndThenSaysWhatIsMissing) {
  Arena arena("saved", kCpuDevice, 256);
  arena.alloc<uint8_t>({100});
  arena.alloc<uint8_t>({128});
  try {
    arena.alloc<float>({10});
    FAIL() << "40 bytes fitted into nothing";
  } catch (const ArenaError& error) {
    EXPECT_EQ(std::string(error.what()), "arena 'saved': 40 bytes asked, 0 free of 256");
  }
  EXPECT_EQ(arena.used(), 256u) << "a refused allocation changes nothing";
}

TEST(Arena, UsesABufferWhoseSizeIsNoMultipleOfTheAlignment) {
  Arena arena("a", kCpuDevice, 100);
  EXPECT_NO_THROW(arena.alloc<uint8_t>({100}));
  EXPECT_THROW(arena.alloc<uint8_t>({1}), ArenaError);
}

TEST(Arena, OnMetaCountsTheSameBytesWithoutMemoryOrLimit) {
  Arena planned("a"), real("a", kCpuDevice, 1 << 20);
  for (Arena* arena : {&planned, &real}) {
    arena->alloc<float>({3, 5});
    const Arena::Scope scope(*arena);
    arena->alloc<double>({1000});
  }
  EXPECT_EQ(planned.peak(), real.peak());
  EXPECT_EQ(planned.used(), real.used());
  EXPECT_EQ(planned.alloc<float>({int64_t{1} << 40}).data, nullptr);
}

TEST(Arena, AllocatesNothingForAnEmptyShape) {
  Arena arena("a", kCpuDevice, 128);
  EXPECT_EQ(arena.alloc<float>({0, 7}).numel(), 0);
  EXPECT_EQ(arena.used(), 0u);
}

#if defined(__SANITIZE_ADDRESS__)
TEST(ArenaDeathTest, TheSanitizerReportsReadsOfMemoryThatIsNotAllocated) {
  Arena arena("a", kCpuDevice, 4096);
  const View<float> first = arena.alloc<float>({64});
  float* rewound = nullptr;
  {
    const Arena::Scope scope(arena);
    rewound = arena.alloc<float>({100}).data;
    rewound[99] = 1.0f;
  }
  volatile float read = first[63];
  EXPECT_DEATH(read = *rewound, "use-after-poison");
  EXPECT_DEATH(read = rewound[99], "use-after-poison");
  EXPECT_DEATH(read = first.data[1000], "use-after-poison") << "never allocated";
  EXPECT_EQ(arena.alloc<float>({100}).data, rewound);
  EXPECT_EQ(rewound[99], 1.0f) << "only closed, not changed";
  static_cast<void>(read);
}
#endif

TEST(Buffer, StartsAsZeros) {
  const Buffer buffer(kCpuDevice, 1000);
  for (size_t i = 0; i < buffer.bytes(); ++i) ASSERT_EQ(buffer.data()[i], std::byte{0});
}

}  // namespace
}  // namespace stipple
