// SPDX-License-Identifier: Apache-2.0
// The element types that CUDA's libraries share.
#pragma once

enum cudaDataType_t : int { CUDA_R_32F = 0, CUDA_R_16BF = 14 };
using cudaDataType = cudaDataType_t;
