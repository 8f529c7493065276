// SPDX-License-Identifier: Apache-2.0
// The three descriptors that a program is given, made fit to rely on. What is said while a job
// runs goes to standard error (core/log.h) and may be lost; a command's answer goes to standard
// output, and a loss of it is an error.
#pragma once

namespace stipple {

/// Called once, first thing in main, before anything is opened. Descriptors 0 to 2 that are closed
/// become /dev/null, or the first files opened would receive what is meant for a person. Writing to
/// a closed pipe (SIGPIPE) or beyond the file-size limit (SIGXFSZ) is an error of that write, no
/// longer the end of the process. Standard output is kept until flush_standard_output().
void prepare_standard_streams();

/// Writes the answer out. Error when it cannot be written; a pipe whose reader has left, and a
/// terminal that is gone, are no error: nobody waits for the rest.
void flush_standard_output();

}  // namespace stipple
