// SPDX-License-Identifier: Apache-2.0
// Where data lives and work runs. A value: cheap to copy, compares by content.
#pragma once

#include <cstdint>

namespace stipple {

/// kMeta is the planning device: operations check their shapes and arenas count bytes, but nothing is stored or computed.
enum class DeviceType : uint8_t { kCpu, kCuda, kMeta };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

inline constexpr Device kCpuDevice{DeviceType::kCpu, 0};
inline constexpr Device kMetaDevice{DeviceType::kMeta, 0};

}  // namespace stipple
