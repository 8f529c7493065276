// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/rank_checks.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/stopwatch.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/loop/time_limit.h"
#include "trainer/record/host_name.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

/// A shared file system may take its time to show a new file to other nodes.
constexpr double kPatience_s = 5;
constexpr double kMostSkew_s = 1;
constexpr int64_t kLeastFreeInodes = 10'000;
constexpr double kProbe_s = 0.1;
constexpr size_t kProbeFloats = size_t{1} << 20;
/// Of the ranks of one node, by shared memory: a tenth of what a plain machine reaches.
constexpr double kLeastSharedMemory_GB_per_s = 0.3;
/// Less than this share of a network is worth a look.
constexpr double kLeastShareOfNetwork = 0.3;

std::string nearest_existing(const std::string& folder) {
  fs::path path = fs::absolute(folder).lexically_normal();
  while (!fs::exists(path) && path.has_parent_path() && path != path.parent_path())
    path = path.parent_path();
  return path.string();
}

/// How long it took to see the file with this text; negative: it was not seen in time.
double seconds_until_seen(const std::string& path, const std::string& text) {
  Stopwatch watch;
  for (double waited = 0; waited < kPatience_s; waited += watch.lap()) {
    std::ifstream in(path);
    std::string line;
    if (std::getline(in, line) && line == text) return waited;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return -1;
}

double number_from_text(const std::string& text) {
  double value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

/// The hosts of ranks for which `is_one` holds, each once.
template <class IsOne>
std::string hosts_where(const std::vector<std::string>& hosts, IsOne is_one) {
  std::set<std::string> found;
  for (size_t rank = 0; rank < hosts.size(); ++rank)
    if (is_one(rank)) found.insert(hosts[rank]);
  return fmt::format("{}", fmt::join(found, ", "));
}

/// Mbit/s of the fastest interface that says so; 0: none does.
double fastest_link_mbit_per_s() {
  double fastest = 0;
  for (const std::string& name : network_interfaces()) {
    double speed = 0;
    std::ifstream("/sys/class/net/" + name + "/speed") >> speed;
    fastest = std::max(fastest, speed);
  }
  return fastest;
}

/// GB/s over the narrowest link, of the fastest of about kProbe_s.
double bus_bandwidth(comm::Communicator& communicator) {
  std::vector<float> data(kProbeFloats, 1.0F);
  const auto round = [&] {
    Stopwatch watch;
    std::fill(data.begin(), data.end(), 1.0F);
    watch.lap();
    communicator.wait(communicator.all_reduce_sum(data));
    return communicator.all_reduce(watch.lap(), comm::Reduction::kMax);
  };
  double best_s = round();
  for (double spent_s = 0; spent_s < kProbe_s;) {
    const double seconds = round();
    best_s = std::min(best_s, seconds);
    spent_s += seconds;
  }
  const double ranks = communicator.size();
  return 2 * (ranks - 1) / ranks * static_cast<double>(kProbeFloats * sizeof(float)) / best_s / 1e9;
}

}  // namespace

std::vector<std::string> network_interfaces() {
  std::set<std::string> names;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return {};
  for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
    const bool has_address = i->ifa_addr != nullptr && i->ifa_addr->sa_family == AF_INET;
    if (has_address && (i->ifa_flags & IFF_UP) != 0 && (i->ifa_flags & IFF_LOOPBACK) == 0)
      names.insert(i->ifa_name);
  }
  freeifaddrs(all);
  return {names.begin(), names.end()};
}

Finding check_shared_folder(comm::Communicator& communicator, const std::string& folder) {
  const std::string where = communicator.broadcast(nearest_existing(folder), 0);
  const std::string text =
      communicator.broadcast(fmt::format("{} {} {:.6f}", host_name(), getpid(), unix_time_s()), 0);
  const std::string file = where + "/.stipple-doctor-" + text.substr(text.rfind(' ') + 1);
  std::string refused;
  if (communicator.rank() == 0) {
    try {
      write_durably(file, text + "\n");
    } catch (const Error& e) {
      refused = e.what();
    }
  }
  refused = communicator.broadcast(refused, 0);
  if (!refused.empty())
    return {"folder", where + " cannot be written to",
            refused + "; choose another run.dir, or have its permissions changed"};
  const double seen_s = seconds_until_seen(file, text);
  const std::vector<std::string> all_s = communicator.all_gather(fmt::format("{}", seen_s));
  const std::vector<std::string> hosts = communicator.all_gather(host_name());
  if (communicator.rank() == 0) remove_tree(file);
  const auto is_blind = [&](size_t rank) { return number_from_text(all_s[rank]) < 0; };
  struct statvfs s = {};
  statvfs(where.c_str(), &s);
  const double free_gb = static_cast<double>(s.f_bavail) * static_cast<double>(s.f_frsize) / 1e9;
  const std::string blind = hosts_where(hosts, is_blind);
  if (!blind.empty())
    return {"folder", where + " is not the same everywhere",
            fmt::format("what {} writes there is not seen on {}; put run.dir on a file system that "
                        "all nodes share",
                        hosts.front(), blind)};
  Finding finding{"folder", fmt::format("{} is seen by all ranks; {:.1f} GB and {} inodes free",
                                        where, free_gb, s.f_favail)};
  // Some file systems do not count inodes, and say 0 of 0.
  if (s.f_files > 0 && static_cast<int64_t>(s.f_favail) < kLeastFreeInodes)
    finding.advice = "few inodes are left: every checkpoint takes some; remove files there";
  return finding;
}

Finding check_clocks(comm::Communicator& communicator) {
  communicator.barrier();
  Stopwatch watch;
  const double now_s = unix_time_s();
  const std::vector<std::string> all = communicator.all_gather(fmt::format("{:.6f}", now_s));
  const double error_s = communicator.all_reduce(watch.lap(), comm::Reduction::kMax);
  const std::vector<std::string> hosts = communicator.all_gather(host_name());
  size_t first = 0;
  size_t last = 0;
  const auto at = [&](size_t rank) { return number_from_text(all[rank]); };
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (at(rank) < at(first)) first = rank;
    if (at(rank) > at(last)) last = rank;
  }
  const double skew_s = at(last) - at(first);
  Finding finding{"clocks", fmt::format("at most {:.1g} s apart, to {:.1g} s", skew_s, error_s)};
  if (skew_s > kMostSkew_s + error_s)
    finding.advice = fmt::format(
        "the clock of {} is {:.1f} s ahead of that of {}; a run leaves its job by the clock that "
        "is "
        "ahead: have the time service looked at",
        hosts[last], skew_s, hosts[first]);
  return finding;
}

Finding check_bandwidth(comm::Communicator& communicator) {
  const double found = bus_bandwidth(communicator);
  const bool one_node = communicator.local_size() == communicator.size();
  const double link = fastest_link_mbit_per_s() / 8e3;
  const double expected = one_node ? kLeastSharedMemory_GB_per_s : kLeastShareOfNetwork * link;
  Finding finding{"bandwidth",
                  fmt::format("{:.2f} GB/s of an all-reduce of 4 MiB, {}", found,
                              one_node   ? "by shared memory"
                              : link > 0 ? fmt::format("over a link of {:.2f} GB/s", link)
                                         : "over a network of unknown speed")};
  if (found >= expected) return finding;
  finding.advice =
      one_node ? "less than shared memory gives: more ranks than cores, or single copies are not "
                 "allowed (in a container: --cap-add SYS_PTRACE)"
               : fmt::format(
                     "less than the link gives: choose the interface, "
                     "OMPI_MCA_btl_tcp_if_include=NAME ({})",
                     fmt::join(network_interfaces(), ", "));
  return finding;
}

Finding check_interfaces(comm::Communicator& communicator) {
  const std::vector<std::string> all =
      communicator.all_gather(fmt::format("{}", fmt::join(network_interfaces(), ", ")));
  const std::vector<std::string> hosts = communicator.all_gather(host_name());
  if (communicator.local_size() == communicator.size()) return {};
  const std::string others =
      hosts_where(hosts, [&](size_t rank) { return all[rank] != all.front(); });
  if (others.empty()) return {"interfaces", all.front() + " on all nodes"};
  return {"interfaces", fmt::format("{} on {}, others on {}", all.front(), hosts.front(), others),
          "if ranks of different nodes wait for each other, name the one that connects them: "
          "OMPI_MCA_btl_tcp_if_include=NAME, OMPI_MCA_oob_tcp_if_include=NAME"};
}

}  // namespace stipple::trainer
