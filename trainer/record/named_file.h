// SPDX-License-Identifier: Apache-2.0
// Files that a person names on the command line (--out). A regular file gets its new contents all at
// once, also behind a symbolic link; a device or a pipe is written to, never replaced.
#pragma once

#include <string>
#include <string_view>

namespace stipple::trainer {

/// Before any work: ConfigError, which names `what` ("--out"), where `path` is a folder, lies in
/// none, or may not be written.
void require_output(const std::string& path, std::string_view what);

/// ConfigError or CheckpointError where it cannot be written, as of replace_durably.
void write_output(const std::string& path, std::string_view bytes);

}  // namespace stipple::trainer
