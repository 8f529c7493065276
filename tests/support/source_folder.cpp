// SPDX-License-Identifier: Apache-2.0
#include "tests/support/source_folder.h"

namespace stipple::test {

std::filesystem::path source_folder() { return STIPPLE_SOURCE_DIR; }

}  // namespace stipple::test
