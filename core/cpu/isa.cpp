// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "core/error.h"

namespace stipple::cpu {
namespace {

// __builtin_cpu_supports checks that the operating system saves the registers, too.
Isa best() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt")) {
    return Isa::kAvx2;
  }
  return Isa::kScalar;
}

Isa initial() {
  const char* wanted = std::getenv("STIPPLE_ISA");
  if (wanted == nullptr) return best();
  for (Isa candidate : available_isas()) {
    if (isa_name(candidate) == wanted) return candidate;
  }
  throw ConfigError(detail::concat("STIPPLE_ISA=", wanted, " is not available here; use scalar",
                                   best() >= Isa::kAvx2 ? ", avx2" : "",
                                   best() >= Isa::kAvx512 ? ", avx512" : ""));
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> value{initial()};
  return value;
}

}  // namespace

std::string_view isa_name(Isa value) {
  switch (value) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "?";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> result;
  for (Isa candidate : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (candidate <= best()) result.push_back(candidate);
  }
  return result;
}

Isa isa() { return current().load(std::memory_order_relaxed); }

void set_isa(Isa value) {
  STIPPLE_CHECK(value <= best(), "this CPU has no ", isa_name(value));
  current().store(value, std::memory_order_relaxed);
}

}  // namespace stipple::cpu
