// SPDX-License-Identifier: Apache-2.0
// Files that are composed of others: `include: [task/lra_listops, attention/sbm]`.
#pragma once

#include <string>
#include <vector>

#include "core/config/document.h"

namespace stipple::config {

/// The documents that these command-line arguments (paths, or names like attention/sbm) stand for,
/// in the order in which they apply: what a file includes comes before the file itself. What has
/// come before is not included again, so that a part that two others share cannot undo the first;
/// an argument always applies where it stands.
///
/// A name is that of a file under the folder `configs`, without .yaml: the one that holds the
/// including file, else `configs` in the working directory. What ends in .yaml is a path, relative
/// to the including file.
///
/// ConfigError with the line: an include that is not there, or a circle. A file that cannot be read.
std::vector<Document> documents_of(const std::vector<std::string>& arguments);

}  // namespace stipple::config
