// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/isa.h"

#include <cpuid.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>

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

bool environment_allows_vnni() {
  const char* wanted = std::getenv("STIPPLE_VNNI");
  if (wanted == nullptr) return true;
  const std::string_view value = wanted;
  STIPPLE_CHECK_AS(ConfigError, value == "0" || value == "1", "STIPPLE_VNNI=", value,
                   " means nothing; use 0 or 1");
  return value == "1";
}

std::atomic<bool>& vnni_allowed() {
  static std::atomic<bool> value{environment_allows_vnni()};
  return value;
}

Isa initial() {
  vnni_allowed();  // what is wrong with the environment is said at once
  const char* wanted = std::getenv("STIPPLE_ISA");
  if (wanted == nullptr) return best();
  for (Isa candidate : available_isas()) {
    if (isa_name(candidate) == wanted) return candidate;
  }
  throw ConfigError(detail::concat("STIPPLE_ISA=", wanted, " is not available here; use scalar",
                                   best() >= Isa::kAvx2 ? ", avx2" : "",
                                   best() >= Isa::kAvx512 ? ", avx512" : ""));
}

// Compilers do not agree on a name of it. Asked once: virtual machines take long to answer.
bool cpu_has_avx_vnni() {
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
  }();
  return has;
}

bool cpu_has_vnni(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512vnni") != 0;
    case Isa::kAvx2:
      return cpu_has_avx_vnni();
    case Isa::kScalar:
      break;
  }
  return false;
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

bool has_vnni() { return vnni_allowed().load(std::memory_order_relaxed) && cpu_has_vnni(isa()); }

void allow_vnni(bool value) { vnni_allowed().store(value, std::memory_order_relaxed); }

}  // namespace stipple::cpu
