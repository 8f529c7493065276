// SPDX-License-Identifier: Apache-2.0
#include "trainer/loop/memory_check.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <sstream>
#include <vector>

#include "core/bytes_text.h"
#include "core/cpu/memory.h"
#include "core/cuda/runtime.h"
#include "core/error.h"

namespace stipple::trainer {
namespace {

RankMemory memory_of(const MemoryPlan& plan, Device device) {
  std::array<char, HOST_NAME_MAX + 1> host{};
  gethostname(host.data(), host.size() - 1);
  if (device.type == DeviceType::kCuda) {
    return {host.data(), plan.total(), cuda::device_info(device.index).free_bytes, cpu::kUnlimited};
  }
  return {host.data(), plan.total(), cpu::available_address_space(), cpu::available_memory()};
}

// Host names contain no spaces.
std::string to_text(const RankMemory& m) {
  return detail::concat(m.host, ' ', m.needed, ' ', m.own, ' ', m.shared);
}

RankMemory from_text(const std::string& text) {
  RankMemory memory;
  std::istringstream(text) >> memory.host >> memory.needed >> memory.own >> memory.shared;
  return memory;
}

std::string describe(const MemoryShortage& shortage, const RankMemory& first,
                     const MemoryPlan& plan, Device device) {
  std::ostringstream text;
  if (shortage.ranks == 1) {
    text << "rank " << shortage.rank << " on " << first.host << " needs ";
  } else {
    text << "the " << shortage.ranks << " ranks on " << first.host << " need ";
  }
  text << shortage.needed / kMegabyte << " MB of memory (" << plan.saved / kMegabyte
       << " MB of a rank's are activations, " << plan.scratch / kMegabyte << " MB scratch";
  if (plan.fitting > 0)
    text << ", " << plan.fitting / kMegabyte << " MB to fit what predicts graphs";
  text << "), and ";
  if (device.type == DeviceType::kCuda) text << "its GPU has ";
  text << shortage.available / kMegabyte << " MB "
       << (device.type == DeviceType::kCuda ? "free" : "can be had");
  return text.str();
}

std::string advice(int64_t micro_batch, int ranks, bool refits) {
  const std::string others =
      refits ? "data.max_length, model.width or attention.sparsefinder.refresh_examples"
             : "data.max_length, model.width or, with attention.kind=sbm, "
               "attention.sbm.max_density";
  if (micro_batch > 0) {
    return detail::concat("; train.micro_batch=", micro_batch, " fits; or lower ", others);
  }
  return detail::concat("; no smaller train.micro_batch fits; lower ", others,
                        ranks > 1 ? ", or start fewer ranks there" : "");
}

}  // namespace

std::optional<MemoryShortage> find_shortage(std::span<const RankMemory> by_rank) {
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    const RankMemory& first = by_rank[rank];
    if (first.needed > first.own)
      return MemoryShortage{static_cast<int>(rank), 1, first.needed, first.own};
    MemoryShortage of_host{static_cast<int>(rank), 0, 0, cpu::kUnlimited};
    for (const RankMemory& other : by_rank) {
      if (other.host != first.host) continue;
      ++of_host.ranks;
      of_host.needed += other.needed;
      of_host.available = std::min(of_host.available, other.shared);
    }
    if (of_host.needed > of_host.available) return of_host;
  }
  return std::nullopt;
}

namespace {
bool divides_batches_of_phases(const Config& config) {
  return std::ranges::all_of(config.train.phases, [&](const auto& named) {
    const PhaseConfig& phase = named.second;
    return phase.micro_batch > 0 || phase.batch % config.train.micro_batch == 0;
  });
}
}  // namespace

int64_t largest_micro_batch(const Config& config,
                            const std::function<size_t(const Config&)>& needed, size_t available) {
  for (int64_t size = config.train.micro_batch - 1; size > 0; --size) {
    if (config.train.batch % size != 0) continue;
    Config smaller = config;
    smaller.train.micro_batch = size;
    if (!divides_batches_of_phases(smaller)) continue;
    if (needed(smaller) <= available) return size;
  }
  return 0;
}

void require_memory(const MemoryPlan& plan, const Config& config, const data::TaskInfo& info,
                    int threads, Device device, comm::Communicator& communicator, PlanFor purpose) {
  std::vector<RankMemory> by_rank;
  for (const std::string& text : communicator.all_gather(to_text(memory_of(plan, device))))
    by_rank.push_back(from_text(text));
  const std::optional<MemoryShortage> shortage = find_shortage(by_rank);
  if (!shortage) return;
  std::string help = "; end other programs, or write on a machine with more";
  if (purpose == PlanFor::kFitting) help = "; lower --examples, or end other programs";
  if (purpose == PlanFor::kTraining || purpose == PlanFor::kEvaluation) {
    const int64_t fits = largest_micro_batch(
        config,
        [&](const Config& smaller) {
          return plan_memory(smaller, info, threads, shortage->rank, communicator.size(), purpose)
              .total();
        },
        shortage->available / static_cast<size_t>(shortage->ranks));
    help = advice(fits, shortage->ranks, plan.fitting > 0);
  }
  ConfigError error(
      describe(*shortage, by_rank[static_cast<size_t>(shortage->rank)], plan, device) + help);
  error.set_collective();
  throw error;
}

}  // namespace stipple::trainer
