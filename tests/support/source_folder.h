// SPDX-License-Identifier: Apache-2.0
// For tests that read the repository: recipes, documentation, the sources themselves.
#pragma once

#include <filesystem>

namespace stipple::test {

/// The root of the repository that this program was built from.
std::filesystem::path source_folder();

}  // namespace stipple::test
