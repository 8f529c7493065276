// SPDX-License-Identifier: Apache-2.0
// Which instruction set the hot kernels use: the best that this CPU and operating system offer, or
// less where asked, for tests, comparisons and reproducing another machine's bits.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace stipple::cpu {

/// kScalar is plain loops, the readable oracle of the others.
enum class Isa : uint8_t { kScalar, kAvx2, kAvx512 };

std::string_view isa_name(Isa);     ///< "scalar", "avx2", "avx512"
std::vector<Isa> available_isas();  ///< ascending; kScalar is always there
/// The one in force: the best available, or what STIPPLE_ISA (environment) or set_isa named.
/// ConfigError for a bad STIPPLE_ISA.
Isa isa();
/// For tests and benchmarks; takes effect for operations that start later. Error when the CPU lacks
/// it.
void set_isa(Isa);
/// Whether the instruction set in force comes with VNNI, dot products of bytes: not where this CPU
/// lacks it, nor where STIPPLE_VNNI=0 (environment) or allow_vnni says not to use it. Nothing
/// computes other bits with it.
bool has_vnni();
/// For tests and benchmarks.
void allow_vnni(bool);

}  // namespace stipple::cpu
