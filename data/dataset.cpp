// SPDX-License-Identifier: Apache-2.0
#include "data/dataset.h"

#include "core/error.h"

namespace stipple::data {

std::string_view split_name(Split split) {
  switch (split) {
    case Split::kTrain:
      return "train";
    case Split::kValidation:
      return "val";
    case Split::kTest:
      return "test";
  }
  throw Error("split_name: not a split");
}

}  // namespace stipple::data
