// SPDX-License-Identifier: Apache-2.0
// Fragment layouts: PTX ISA, ldmatrix and mma.m16n8k16; g = lane / 4, t = lane % 4.
#include "cuda_on_cpu/warp.h"

#include <cstring>

namespace cuda_on_cpu {
namespace {

constexpr int kRows = 16;
constexpr int kColumns = 8;
constexpr int kInner = 16;
constexpr int kMatrices = 4;
constexpr int kMatrixRows = 8;

template <class T>
T read(const void* base, int index) {
  T value;
  std::memcpy(&value, static_cast<const T*>(base) + index, sizeof(T));
  return value;
}

void check_rows(void* const* operands) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const void* row = static_cast<const MatrixLoad*>(operands[lane])->row;
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix: a row is not 16-byte aligned");
  }
}

const void* row_of(void* const* operands, int matrix, int row) {
  return static_cast<const MatrixLoad*>(operands[kMatrixRows * matrix + row])->row;
}

float low(uint32_t pair) { return from_bf16_bits(pair & 0xFFFFu); }
float high(uint32_t pair) { return from_bf16_bits(pair >> 16); }

/// Bits of a summand that count, from the highest bit of the largest one on.
constexpr int kSummandBits = 25;

/// Four columns at once: the compiler does not find them by itself.
constexpr int kTogether = 4;
using Floats [[gnu::vector_size(kTogether * sizeof(float))]] = float;
using Ints [[gnu::vector_size(kTogether * sizeof(int32_t))]] = int32_t;

Ints to_ints(Floats x) { return __builtin_convertvector(x, Ints); }
Floats size_of(Floats x) { return std::bit_cast<Floats>(std::bit_cast<Ints>(x) & 0x7FFFFFFF); }
/// 2^exponent, of normal numbers.
Floats power_of_two(Ints exponent) { return std::bit_cast<Floats>((exponent + 127) << 23); }

/// The nearest floats towards zero.
Floats truncate(Ints x) {
  const Floats nearest = __builtin_convertvector(x, Floats);
  const Ints back = to_ints(nearest);
  const Ints is_beyond = (back < 0 ? -back : back) > (x < 0 ? -x : x);  // -1: it is
  return std::bit_cast<Floats>(std::bit_cast<Ints>(nearest) + is_beyond);
}

/// The sum of `value` and the terms as tensor cores form it: every summand is cut off, towards
/// zero, at the same place below the largest one, and so is the sum at the precision of float.
Floats add_terms(Floats value, const Floats (&terms)[kInner]) {
  Floats plain = value;
  Floats largest = size_of(value);
  for (const Floats& term : terms) {
    const Floats size = size_of(term);
    plain += term;
    largest = size > largest ? size : largest;
  }
  const Floats zeros = plain - plain;  // NaN of what is not finite
  if (!(zeros[0] + zeros[1] + zeros[2] + zeros[3] == 0.0f)) return plain;
  constexpr int kSmallestExponent = -126;
  const Ints lowest = (std::bit_cast<Ints>(largest) >> 23) - 127 - (kSummandBits - 1);
  const Ints last = lowest > kSmallestExponent ? lowest : Ints{} + kSmallestExponent;
  const Floats units = power_of_two(-last);
  Ints sum = to_ints(value * units);
  for (const Floats& term : terms) sum += to_ints(term * units);
  return truncate(sum) * power_of_two(last);
}

void add_products(float (&c)[kRows][kColumns], const uint32_t (&a_pairs)[kRows][kInner / 2],
                  const uint32_t (&b_pairs)[kColumns][kInner / 2]) {
  constexpr int kVectors = kColumns / kTogether;
  Floats b[kVectors][kInner];
  for (int column = 0; column < kColumns; ++column) {
    for (int pair = 0; pair < kInner / 2; ++pair) {
      Floats* to = &b[column / kTogether][2 * pair];
      to[0][column % kTogether] = low(b_pairs[column][pair]);
      to[1][column % kTogether] = high(b_pairs[column][pair]);
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      Floats terms[kInner];  // exact: a product of two bf16 has 16 bits
      for (int pair = 0; pair < kInner / 2; ++pair) {
        terms[2 * pair] = low(a_pairs[row][pair]) * b[v][2 * pair];
        terms[2 * pair + 1] = high(a_pairs[row][pair]) * b[v][2 * pair + 1];
      }
      Floats value;
      std::memcpy(&value, &c[row][v * kTogether], sizeof(value));
      value = add_terms(value, terms);
      std::memcpy(&c[row][v * kTogether], &value, sizeof(value));
    }
  }
}

}  // namespace

void count_votes(void* const* operands) {
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    bits |= uint32_t{static_cast<const Vote*>(operands[lane])->flag} << lane;
  }
  for (int lane = 0; lane < kLanes; ++lane) static_cast<Vote*>(operands[lane])->result = bits;
}

void load_matrices(void* const* operands) {
  check_rows(operands);
  for (int lane = 0; lane < kLanes; ++lane) {
    uint32_t* registers = static_cast<const MatrixLoad*>(operands[lane])->registers;
    for (int m = 0; m < kMatrices; ++m) {
      registers[m] = read<uint32_t>(row_of(operands, m, lane / 4), lane % 4);
    }
  }
}

void load_matrices_transposed(void* const* operands) {
  check_rows(operands);
  for (int lane = 0; lane < kLanes; ++lane) {
    uint32_t* registers = static_cast<const MatrixLoad*>(operands[lane])->registers;
    for (int m = 0; m < kMatrices; ++m) {
      const int row = 2 * (lane % 4);
      const uint32_t low = read<uint16_t>(row_of(operands, m, row), lane / 4);
      const uint32_t high = read<uint16_t>(row_of(operands, m, row + 1), lane / 4);
      registers[m] = low | high << 16;
    }
  }
}

void multiply_add(void* const* operands) {
  // A register holds two neighbours of a row of A, or of a column of B: those move together.
  uint32_t a_pairs[kRows][kInner / 2];
  uint32_t b_pairs[kColumns][kInner / 2];
  float c[kRows][kColumns];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& own = *static_cast<const Product*>(operands[lane]);
    const int g = lane / 4;
    const int t = lane % 4;
    a_pairs[g][t] = own.a[0];
    a_pairs[g + 8][t] = own.a[1];
    a_pairs[g][t + 4] = own.a[2];
    a_pairs[g + 8][t + 4] = own.a[3];
    b_pairs[g][t] = own.b[0];
    b_pairs[g][t + 4] = own.b[1];
    std::memcpy(&c[g][2 * t], own.c, 2 * sizeof(float));
    std::memcpy(&c[g + 8][2 * t], own.c + 2, 2 * sizeof(float));
  }
  add_products(c, a_pairs, b_pairs);
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& own = *static_cast<const Product*>(operands[lane]);
    const int g = lane / 4;
    const int t = lane % 4;
    std::memcpy(own.c, &c[g][2 * t], 2 * sizeof(float));
    std::memcpy(own.c + 2, &c[g + 8][2 * t], 2 * sizeof(float));
  }
}

}  // namespace cuda_on_cpu
