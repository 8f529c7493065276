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

/// Products of bf16 are exact in float; sums run in order of the inner index.
void add_products(float (&c)[kRows][kColumns], const uint32_t (&a_pairs)[kRows][kInner / 2],
                  const uint32_t (&b_pairs)[kColumns][kInner / 2]) {
  float b[kInner][kColumns];
  for (int pair = 0; pair < kInner / 2; ++pair) {
    for (int column = 0; column < kColumns; ++column) {
      b[2 * pair][column] = low(b_pairs[column][pair]);
      b[2 * pair + 1][column] = high(b_pairs[column][pair]);
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int pair = 0; pair < kInner / 2; ++pair) {
      const float even = low(a_pairs[row][pair]);
      const float odd = high(a_pairs[row][pair]);
      for (int column = 0; column < kColumns; ++column) {
        c[row][column] += even * b[2 * pair][column];
        c[row][column] += odd * b[2 * pair + 1][column];
      }
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
