// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "trainer/checkpoint.h"
#include "trainer/commands/commands.h"

namespace stipple::trainer {

int inspect(const std::string& path) {
  const std::string text = inspect_checkpoint(path);
  std::puts(text.c_str());
  return kDone;
}

}  // namespace stipple::trainer
