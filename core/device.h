// SPDX-License-Identifier: Apache-2.0
// Where data lives and work runs. A value: cheap to copy, compares by content.
#pragma once

#include <cstdint>

namespace stipple {

/// kMeta is the planning device: operations check their shapes and arenas count bytes, but nothing
/// is stored or computed.
enum class DeviceType : uint8_t { kCpu, kCuda, kMeta };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  DeviceType planned = DeviceType::kCpu;  ///< kMeta: which device the plan is for

  /// Whose memory layout and scratch an operation needs here: the device itself, or the one planned
  /// for.
  DeviceType backend() const { return type == DeviceType::kMeta ? planned : type; }
  bool operator==(const Device&) const = default;
};

inline constexpr Device kCpuDevice{DeviceType::kCpu, 0};
inline constexpr Device kMetaDevice{DeviceType::kMeta, 0};
constexpr Device cuda_device(int index) { return {DeviceType::kCuda, index}; }
constexpr Device meta_device(DeviceType planned) { return {DeviceType::kMeta, 0, planned}; }

/// How activations are stored, and how the factors of large products may be rounded. Sums are
/// always formed in fp32; parameters, their gradients and moments, and the residual stream are
/// fp32.
enum class Precision : uint8_t {
  kFp32,  ///< as fp32, not at all
  kBf16,  ///< both to bfloat16, for half the memory and for tensor cores
};

}  // namespace stipple
