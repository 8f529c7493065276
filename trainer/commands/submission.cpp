// SPDX-License-Identifier: Apache-2.0
#include "data/glue/submission.h"

#include <fmt/format.h>

#include "core/log.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/commands/commands.h"
#include "trainer/config/user_path.h"
#include "trainer/exit_code.h"

namespace stipple::trainer {

int submission(const std::vector<std::string>& files, const std::string& out) {
  const data::glue::Submission submission = data::glue::read_submission(files);
  replace_durably(expand_path(out, "--out"), data::glue::zip_of(submission));
  for (const std::string& remark : submission.remarks) log::warn(remark);
  log::info(fmt::format("wrote {}: {} of {} files", out, submission.files.size(),
                        data::glue::all_published().size()));
  return kDone;
}

}  // namespace stipple::trainer
