// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "comm/communicator.h"
#include "core/error.h"

namespace stipple::comm {
namespace {

void check_root(int root) {
  STIPPLE_CHECK_AS(CommError, root == 0, "rank 0/1: broadcast from rank ", root,
                   ", which does not exist");
}

class SingleCommunicator final : public Communicator {
 public:
  using Communicator::all_reduce;
  using Communicator::broadcast;

  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }

  Pending all_reduce_sum(std::span<float>) override { return {}; }

  Pending exchange(std::span<const std::span<const float>> send,
                   std::span<const std::span<float>> recv) override {
    const size_t rounds = exchange_rounds(*this, send, recv);
    for (size_t round = 0; round < rounds; ++round) {
      std::copy(send[round].begin(), send[round].end(), recv[round].begin());
    }
    return {};
  }

  void wait(Pending) override {}
  void progress() override {}

  void barrier() override {}
  void broadcast(std::span<std::byte>, int root) override { check_root(root); }
  void all_reduce(std::span<double>, Reduction) override {}
  void all_reduce(std::span<int64_t>, Reduction) override {}
  std::vector<std::string> all_gather(const std::string& text) override { return {text}; }
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace stipple::comm
