// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/log.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/store.h"
#include "trainer/config/config_text.h"
#include "trainer/record/run_record.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

std::string yaml_of(Config& config) {
  return config_to_yaml([&](ConfigVisitor& v) { config.describe(v); });
}

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

bool RunDirectory::has_run() const {
  return path_exists(metrics()) ||
         (path_exists(checkpoints()) && !list_directory(checkpoints()).empty());
}

void RunDirectory::require_run() const {
  for (const std::string& file : {config(), metrics()}) {
    STIPPLE_CHECK_AS(ConfigError, path_exists(file), path_, " holds no run: there is no ", file,
                     "; give the folder that `stipple train` wrote (run.dir)");
  }
}

void RunDirectory::require_checkpoints() const {
  const std::optional<int64_t> saved = read_run_record(record()).saved_step;
  STIPPLE_CHECK_AS(ConfigError, !saved || !list_checkpoints(checkpoints()).empty(), path_,
                   ": step ", saved.value_or(0), " of this run was saved, but no checkpoint is in ",
                   checkpoints(),
                   "; bring it back (mount it, restore a backup), or choose another "
                   "run.dir to start from the beginning");
}

void RunDirectory::open(Resume resume) const {
  const bool existing = has_run();
  STIPPLE_CHECK_AS(ConfigError, !existing || resume != Resume::kNever, path_,
                   " holds a run already and run.resume is 'never'; choose another run.dir");
  STIPPLE_CHECK_AS(ConfigError, existing || resume != Resume::kMust, path_,
                   " holds no run and run.resume is 'must'; check run.dir");
  try {
    create_directories(path_);
  } catch (const ConfigError& e) {
    throw ConfigError(fmt::format("run.dir: {}; choose another folder", e.what()));
  }
  require_checkpoints();
  log::set_file(path_ + "/log.txt");
}

void RunDirectory::sweep() const {
  for (const std::string& file : {config(), record(), metrics(), figures(), ladder(), report()}) {
    const std::string left = file + kTemporarySuffix;
    if (!path_exists(left)) continue;
    log::info(fmt::format("removing {}, left by a killed process", left));
    remove_tree(left);
  }
}

void RunDirectory::remember_checkpoint(int64_t step) const {
  RunRecord kept = read_run_record(record());
  if (kept.saved_step == step) return;
  if (kept.saved_step > step) {
    log::warn(
        fmt::format("step {} of this run was saved, too, but is gone or damaged; going on from "
                    "step {}",
                    *kept.saved_step, step));
  }
  kept.saved_step = step;
  write_run_record(record(), kept);
}

void RunDirectory::write_config(Config& config) const {
  const std::string yaml = yaml_of(config);
  if (fs::exists(this->config())) {
    for (const std::string& line : differing_keys(read_file(this->config()), yaml)) log::warn(line);
  }
  replace_durably(this->config(), yaml);
}

void RunDirectory::write_figures(const std::vector<ShownFigure>& shown) const {
  replace_durably(figures(), figures_to_json(shown));
}

void RunDirectory::write_ladder(const Ladder& rungs) const {
  replace_durably(ladder(), ladder_to_json(rungs));
}

RunLock::RunLock(const RunDirectory& directory) {
  const std::string path = directory.path() + "/lock";
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) {
    const int code = errno;
    const std::string refused = fmt::format("cannot open {}: {}", path, std::strerror(code));
    if (is_permanent(code)) throw ConfigError(refused);
    throw Error(refused);
  }
  struct flock whole = {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (fcntl(descriptor_, F_SETLK, &whole) != 0) {
    const std::string holder = read_file(path);
    ::close(descriptor_);
    throw ConfigError(
        fmt::format("another job is using {} ({}); wait for it or choose another run.dir",
                    directory.path(), holder.empty() ? "unknown" : holder));
  }
  char host[64] = "";
  gethostname(host, sizeof host - 1);
  const std::string holder = fmt::format("{}, process {}", host, getpid());
  // Only for the other's message: the lock holds without it.
  if (ftruncate(descriptor_, 0) == 0) {
    [[maybe_unused]] const ssize_t written = ::write(descriptor_, holder.data(), holder.size());
  }
}

RunLock::~RunLock() { ::close(descriptor_); }

Config load_config_on_all_ranks(comm::Communicator& communicator,
                                const std::vector<std::string>& files,
                                const std::vector<std::string>& overrides) {
  std::string text;
  comm::agree(communicator, [&] {
    if (communicator.rank() != 0) return;
    Config config = Config::load(files, overrides);
    validate(config);
    text = yaml_of(config);
  });
  Config config;
  load_config_text(communicator.broadcast(text, 0), "configuration of rank 0",
                   [&](ConfigVisitor& v) { config.describe(v); });
  communicator.set_timeout(config.comm.timeout_s, "comm.timeout_s");
  return config;
}

}  // namespace stipple::trainer
