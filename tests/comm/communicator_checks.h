// SPDX-License-Identifier: Apache-2.0
// What every transport must do, written against the interface: the body of one rank, on the memory
// of a stream (null: of the host). Run by communicator_test.cpp (threads, one rank),
// communicator_mp_test.cpp (processes) and nccl_mp_test.cpp (their devices).
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <string>
#include <typeinfo>
#include <vector>

#include "comm/communicator.h"
#include "core/error.h"
#include "float_array.h"

namespace stipple::comm::test {

inline void ranks_are_numbered(Communicator& c, const Stream*) {
  const std::vector<std::string> ranks = c.all_gather(std::to_string(c.rank()));
  ASSERT_EQ(ranks.size(), static_cast<size_t>(c.size()));
  for (int r = 0; r < c.size(); ++r) EXPECT_EQ(ranks[static_cast<size_t>(r)], std::to_string(r));
  EXPECT_GE(c.local_rank(), 0);
  EXPECT_LT(c.local_rank(), c.local_size());
  EXPECT_LE(c.local_size(), c.size());
}

inline void sums_are_taken_in_place(Communicator& c, const Stream* memory) {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{1000}, size_t{100003}}) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i)
      values[i] = static_cast<float>(i % 97) + static_cast<float>(c.rank());
    const FloatArray array(memory, values);
    c.wait(c.all_reduce_sum(array.span()));
    values = array.get();
    const float n = static_cast<float>(c.size());
    for (size_t i = 0; i < count; ++i) {
      ASSERT_EQ(values[i], n * static_cast<float>(i % 97) + n * (n - 1) / 2) << i;
    }
  }
}

inline void many_sums_are_pending_at_once(Communicator& c, const Stream* memory) {
  std::vector<FloatArray> values;
  for (int k = 0; k < 20; ++k)
    values.emplace_back(memory, std::vector<float>(100, static_cast<float>(k + c.rank())));
  std::vector<Pending> pending;
  for (const FloatArray& v : values) pending.push_back(c.all_reduce_sum(v.span()));
  c.progress();
  for (size_t k = values.size(); k-- > 0;) c.wait(pending[k]);
  for (size_t k = 0; k < values.size(); ++k) {
    const int n = c.size();
    EXPECT_EQ(values[k].get(), std::vector<float>(100, static_cast<float>(n * static_cast<int>(k) +
                                                                          n * (n - 1) / 2)));
  }
}

/// One exchange whose sizes differ for every pair, some of them zero.
struct UnevenExchange {
  UnevenExchange(Communicator& c, int salt_in, const Stream* memory = nullptr)
      : rank(c.rank()), salt(salt_in) {
    for (int peer = 0; peer < c.size(); ++peer) {
      out.emplace_back(memory, std::vector<float>(count(rank, peer), value(rank, peer)));
      in.emplace_back(memory, std::vector<float>(count(peer, rank), -1.0f));
    }
    for (auto& o : out) send.emplace_back(o.span());
    for (auto& i : in) recv.emplace_back(i.span());
  }
  size_t count(int from, int to) const {
    return static_cast<size_t>((from * 3 + to * 5 + salt) % 7 * 100);
  }
  float value(int from, int to) const { return static_cast<float>(from * 1000 + to * 10 + salt); }
  void expect_arrived() const {
    for (int peer = 0; peer < static_cast<int>(in.size()); ++peer) {
      EXPECT_EQ(in[static_cast<size_t>(peer)].get(),
                std::vector<float>(count(peer, rank), value(peer, rank)));
    }
  }
  int rank;
  int salt;
  std::vector<FloatArray> out, in;
  std::vector<std::span<const float>> send;
  std::vector<std::span<float>> recv;
};

inline void exchange_moves_every_span(Communicator& c, const Stream* memory) {
  for (int salt = 0; salt < 7; ++salt) {
    UnevenExchange e(c, salt, memory);
    c.wait(c.exchange(e.send, e.recv));
    e.expect_arrived();
  }
}

inline void rounds_of_an_exchange_travel_together(Communicator& c, const Stream* memory) {
  std::vector<std::unique_ptr<UnevenExchange>> rounds;
  std::vector<std::span<const float>> send;
  std::vector<std::span<float>> recv;
  for (int salt = 0; salt < 3; ++salt) {
    rounds.push_back(std::make_unique<UnevenExchange>(c, salt, memory));
    send.insert(send.end(), rounds.back()->send.begin(), rounds.back()->send.end());
    recv.insert(recv.end(), rounds.back()->recv.begin(), rounds.back()->recv.end());
  }
  c.wait(c.exchange(send, recv));
  for (const auto& round : rounds) round->expect_arrived();
}

inline void pending_exchanges_do_not_mix(Communicator& c, const Stream* memory) {
  std::vector<std::unique_ptr<UnevenExchange>> exchanges;
  std::vector<Pending> pending;
  for (int salt = 0; salt < 5; ++salt) {
    exchanges.push_back(std::make_unique<UnevenExchange>(c, salt, memory));
    pending.push_back(c.exchange(exchanges.back()->send, exchanges.back()->recv));
  }
  for (const size_t k : {3u, 0u, 4u, 2u, 1u}) c.wait(pending[k]);
  for (const auto& e : exchanges) e->expect_arrived();
}

inline void broadcast_reaches_everybody(Communicator& c, const Stream*) {
  for (int root = 0; root < c.size(); ++root) {
    for (const std::string& text : {std::string(), std::string("x"), std::string(100000, 'y')}) {
      const std::string mine = c.rank() == root ? text : "something else";
      EXPECT_EQ(c.broadcast(mine, root), text);
    }
    std::vector<std::byte> bytes(1000, static_cast<std::byte>(c.rank()));
    c.broadcast(std::span(bytes), root);
    EXPECT_EQ(bytes, std::vector<std::byte>(1000, static_cast<std::byte>(root)));
  }
}

inline void numbers_are_reduced(Communicator& c, const Stream*) {
  const int64_t n = c.size();
  const int64_t r = c.rank();
  // Above 2^53: an implementation by way of double would lose the last bits.
  const int64_t large = (int64_t{1} << 55) + 1;
  EXPECT_EQ(c.all_reduce(large + r, Reduction::kSum), n * large + n * (n - 1) / 2);
  EXPECT_EQ(c.all_reduce(large + r, Reduction::kMin), large);
  EXPECT_EQ(c.all_reduce(large + r, Reduction::kMax), large + n - 1);
  EXPECT_EQ(c.all_reduce(0.5 + static_cast<double>(r), Reduction::kMax),
            static_cast<double>(n) - 0.5);
  EXPECT_EQ(c.all_reduce(-0.5 - static_cast<double>(r), Reduction::kMin),
            0.5 - static_cast<double>(n));
  std::vector<double> values{1.0, static_cast<double>(r), 1e300};
  c.all_reduce(std::span(values), Reduction::kSum);
  EXPECT_EQ(values[0], static_cast<double>(n));
  EXPECT_EQ(values[1], static_cast<double>(n * (n - 1) / 2));
  EXPECT_DOUBLE_EQ(values[2], 1e300 * static_cast<double>(n));
}

inline void texts_of_any_length_are_gathered(Communicator& c, const Stream*) {
  const auto text = [](int r) {
    return r % 3 == 1 ? std::string()
                      : std::string(static_cast<size_t>(r * 50000 + 1), static_cast<char>('a' + r));
  };
  const std::vector<std::string> all = c.all_gather(text(c.rank()));
  ASSERT_EQ(all.size(), static_cast<size_t>(c.size()));
  for (int r = 0; r < c.size(); ++r) EXPECT_EQ(all[static_cast<size_t>(r)], text(r));
}

inline void any_is_true_if_one_is(Communicator& c, const Stream*) {
  EXPECT_FALSE(c.any(false));
  for (int r = 0; r < c.size(); ++r) EXPECT_TRUE(c.any(c.rank() == r));
}

inline void a_local_error_is_thrown_everywhere(Communicator& c, const Stream*) {
  EXPECT_NO_THROW(agree(c, [] {}));
  for (int lowest = 0; lowest < c.size(); ++lowest) {
    try {
      agree(c, [&] {
        if (c.rank() >= lowest) throw DataError("fault of " + std::to_string(c.rank()));
      });
      ADD_FAILURE() << "nothing thrown";
    } catch (const DataError& error) {
      EXPECT_TRUE(error.is_collective());
      EXPECT_EQ(std::string(error.what()), "fault of " + std::to_string(lowest));
    }
  }
}

/// What rank 0 throws in agree() arrives everywhere as an `Arriving`.
template <class Arriving, class Thrown>
void expect_type_is_kept(Communicator& c, const Thrown& thrown) {
  try {
    agree(c, [&] {
      if (c.rank() == 0) throw thrown;
    });
    ADD_FAILURE() << "nothing thrown";
  } catch (const Error& error) {
    EXPECT_EQ(typeid(error), typeid(Arriving));
    EXPECT_TRUE(error.is_collective());
  }
}

inline void errors_keep_their_type(Communicator& c, const Stream*) {
  expect_type_is_kept<Error>(c, std::runtime_error("x"));
  expect_type_is_kept<ConfigError>(c, ConfigError("x"));
  expect_type_is_kept<DataError>(c, DataError("x"));
  expect_type_is_kept<CheckpointError>(c, CheckpointError("x"));
  expect_type_is_kept<DivergenceError>(c, DivergenceError("x"));
  expect_type_is_kept<MemoryError>(c, MemoryError("x"));
  expect_type_is_kept<MemoryError>(c, std::bad_alloc());
}

inline void operations_of_all_kinds_interleave(Communicator& c, const Stream* memory) {
  const FloatArray values(memory, std::vector<float>(5000, 1.0f));
  UnevenExchange e(c, 2, memory);
  const Pending sum = c.all_reduce_sum(values.span());
  c.barrier();
  const Pending exchange = c.exchange(e.send, e.recv);
  EXPECT_EQ(c.all_reduce(int64_t{1}, Reduction::kSum), c.size());
  c.progress();
  c.wait(exchange);
  c.barrier();
  c.wait(sum);
  e.expect_arrived();
  EXPECT_EQ(values.get(), std::vector<float>(5000, static_cast<float>(c.size())));
}

struct Check {
  const char* claim;
  void (*body)(Communicator&, const Stream* memory);
};

inline constexpr Check kChecks[] = {
    {"RanksAreNumbered", ranks_are_numbered},
    {"SumsAreTakenInPlace", sums_are_taken_in_place},
    {"ManySumsArePendingAtOnce", many_sums_are_pending_at_once},
    {"ExchangeMovesEverySpan", exchange_moves_every_span},
    {"RoundsOfAnExchangeTravelTogether", rounds_of_an_exchange_travel_together},
    {"PendingExchangesDoNotMix", pending_exchanges_do_not_mix},
    {"BroadcastReachesEverybody", broadcast_reaches_everybody},
    {"NumbersAreReduced", numbers_are_reduced},
    {"TextsOfAnyLengthAreGathered", texts_of_any_length_are_gathered},
    {"AnyIsTrueIfOneIs", any_is_true_if_one_is},
    {"ALocalErrorIsThrownEverywhere", a_local_error_is_thrown_everywhere},
    {"ErrorsKeepTheirType", errors_keep_their_type},
    {"OperationsOfAllKindsInterleave", operations_of_all_kinds_interleave},
};

inline std::string claim_of(const ::testing::TestParamInfo<Check>& info) {
  return info.param.claim;
}

}  // namespace stipple::comm::test
