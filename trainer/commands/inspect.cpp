// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "trainer/checkpoint/inspection.h"
#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"

namespace stipple::trainer {

int inspect(const std::string& path) {
  const std::string text = inspect_checkpoint(expand_path(path, "checkpoint"));
  std::puts(text.c_str());
  return kDone;
}

}  // namespace stipple::trainer
