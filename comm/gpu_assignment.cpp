// SPDX-License-Identifier: Apache-2.0
#include "comm/gpu_assignment.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <set>
#include <sstream>

#include "core/cuda/runtime.h"
#include "core/error.h"

namespace stipple::comm {
namespace {

// cp.async and the bf16 tensor-core instructions came with Ampere.
constexpr int kOldestMajor = 8;

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

GpuView view_of(int local_rank) {
  GpuView view;
  view.host = host_name();
  view.num_gpus = cuda::device_count();
  if (view.num_gpus == 0) {
    view.why_no_gpu = cuda::why_no_device();
    return view;
  }
  try {
    const cuda::DeviceInfo info = cuda::device_info(gpu_index(local_rank, view.num_gpus));
    view.name = info.name;
    view.bus_id = info.bus_id;
    view.compute_major = info.compute_major;
    view.compute_minor = info.compute_minor;
  } catch (const CudaError& e) {
    view.why_no_gpu = e.what();
  }
  return view;
}

// Names and reasons contain spaces, never line breaks.
std::string to_text(const GpuView& view) {
  return detail::concat(view.host, '\n', view.num_gpus, '\n', view.why_no_gpu, '\n', view.name,
                        '\n', view.bus_id, '\n', view.compute_major, ' ', view.compute_minor);
}

GpuView from_text(const std::string& text) {
  GpuView view;
  std::istringstream in(text);
  std::string num_gpus;
  std::getline(in, view.host);
  std::getline(in, num_gpus);
  std::getline(in, view.why_no_gpu);
  std::getline(in, view.name);
  std::getline(in, view.bus_id);
  in >> view.compute_major >> view.compute_minor;
  view.num_gpus = std::stoi(num_gpus);
  return view;
}

std::string own_objection(const GpuView& view) {
  if (!view.why_no_gpu.empty()) return "there is no GPU to use: " + view.why_no_gpu;
  if (view.compute_major < kOldestMajor) {
    return detail::concat("a GPU of compute capability ", kOldestMajor,
                          ".0 or later is needed (A100, H100, B200...), ", view.name, " has ",
                          view.compute_major, ".", view.compute_minor);
  }
  return {};
}

/// The first rank's objection; it is named only where others have another or none.
std::string first_own_objection(std::span<const GpuView> views) {
  const std::string first = own_objection(views[0]);
  const bool all_alike = std::all_of(views.begin(), views.end(), [&](const GpuView& view) {
    return own_objection(view) == first;
  });
  if (all_alike) return first;
  for (size_t rank = 0; rank < views.size(); ++rank) {
    const std::string text = own_objection(views[rank]);
    if (!text.empty()) return detail::concat("rank ", rank, " (", views[rank].host, "): ", text);
  }
  return {};
}

std::string sharing_objection(std::span<const GpuView> views, size_t first, size_t second) {
  int ranks = 0;
  int gpus = 0;
  std::set<std::string> bus_ids;
  for (const GpuView& view : views) {
    if (view.host != views[first].host) continue;
    ++ranks;
    gpus = std::max(gpus, view.num_gpus);
    bus_ids.insert(view.bus_id);
  }
  gpus = std::max(gpus, static_cast<int>(bus_ids.size()));
  const std::string shared =
      detail::concat("ranks ", first, " and ", second, " on ", views[first].host,
                     " would use the same GPU (", views[first].bus_id, "): ");
  if (ranks > gpus) {
    return detail::concat(shared, ranks, " ranks were started there and it has ", gpus,
                          gpus == 1 ? " GPU" : " GPUs", "; start at most ", gpus,
                          gpus == 1 ? " rank" : " ranks", " per node");
  }
  return detail::concat(shared, "it has ", gpus,
                        " GPUs, but the ranks do not see the same ones; give all ranks the same "
                        "CUDA_VISIBLE_DEVICES, or each its own GPU");
}

}  // namespace

int gpu_index(int local_rank, int num_gpus) { return local_rank % num_gpus; }

std::string gpu_objection(std::span<const GpuView> views) {
  if (const std::string text = first_own_objection(views); !text.empty()) return text;
  for (size_t second = 0; second < views.size(); ++second) {
    for (size_t first = 0; first < second; ++first) {
      if (views[first].host == views[second].host && views[first].bus_id == views[second].bus_id) {
        return sharing_objection(views, first, second);
      }
    }
  }
  return {};
}

int choose_cuda_device(Communicator& communicator) {
  const GpuView mine = view_of(communicator.local_rank());
  std::vector<GpuView> views;
  for (const std::string& text : communicator.all_gather(to_text(mine))) {
    views.push_back(from_text(text));
  }
  const std::string objection = gpu_objection(views);
  if (objection.empty()) return gpu_index(communicator.local_rank(), mine.num_gpus);
  ConfigError error(objection);
  error.set_collective();
  throw error;
}

}  // namespace stipple::comm
