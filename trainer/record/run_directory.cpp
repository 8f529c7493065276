// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/log.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/checkpoint/step_directory.h"
#include "trainer/config/resume.h"
#include "trainer/config/user_path.h"
#include "trainer/record/host_name.h"
#include "trainer/record/run_record.h"

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;
constexpr std::string_view kEarlierPrefix = "config.until-step-";
constexpr std::string_view kEarlierSuffix = ".yaml";
constexpr std::string_view kDumpPrefix = "graphs-";
constexpr std::string_view kDumpSuffix = ".safetensors";

/// The step in the name of an earlier configuration.
std::optional<int64_t> replaced_at(std::string_view name) {
  if (!name.starts_with(kEarlierPrefix) || !name.ends_with(kEarlierSuffix)) return std::nullopt;
  name.remove_prefix(kEarlierPrefix.size());
  name.remove_suffix(kEarlierSuffix.size());
  int64_t step = 0;
  const auto end = std::from_chars(name.data(), name.data() + name.size(), step);
  if (end.ec != std::errc() || end.ptr != name.data() + name.size()) return std::nullopt;
  return step;
}

std::string absolute(const std::string& path) {
  return fs::absolute(path).lexically_normal().string();
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
  const std::array<std::string, 8> ours = {config(), record(), metrics(),      figures(),
                                           ladder(), report(), data_summary(), graphs()};
  for (const std::string& name : list_directory(path_)) {
    if (!name.ends_with(kTemporarySuffix)) continue;
    const std::string file = name.substr(0, name.size() - std::strlen(kTemporarySuffix));
    const bool is_ours = std::count(ours.begin(), ours.end(), path_ + "/" + file) > 0;
    const bool is_dump = file.starts_with(kDumpPrefix) && file.ends_with(kDumpSuffix);
    if (!is_ours && !is_dump && !replaced_at(file)) continue;
    const std::string left = path_ + "/" + name;
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

Config RunDirectory::load_config() const {
  Config config;
  config.origins =
      stipple::load_config({this->config()}, {}, [&](ConfigVisitor& v) { config.describe(v); });
  const auto paths = read_run_record(record()).paths;
  const auto data = paths.find("data.dir");
  // Data that moved together with the working folder are found by what was typed.
  if (data != paths.end() && (path_exists(data->second) || !path_exists(config.data.dir))) {
    config.data.dir = data->second;
    config.origins.set("data.dir", {record()});
  }
  return config.resolved();
}

void RunDirectory::write_config(const Config& config, int64_t step,
                                const std::string& until_now) const {
  for (const EarlierConfig& earlier : earlier_configs())
    if (earlier.until_step >= step) remove_tree(earlier_config(earlier.until_step));
  const std::string yaml = yaml_of(config);
  if (step > 0 && !changes_between(until_now, yaml).applied.empty())
    replace_durably(earlier_config(step), until_now);
  RunRecord kept = read_run_record(record());
  kept.paths = {{"data.dir", absolute(config.data.dir)}};
  write_run_record(record(), kept);
  replace_durably(this->config(), yaml);
}

std::string RunDirectory::graphs(std::string_view split, int64_t step) const {
  return fmt::format("{}/{}{}-step-{:08d}{}", path_, kDumpPrefix, split, step, kDumpSuffix);
}

std::string RunDirectory::earlier_config(int64_t step) const {
  return fmt::format("{}/{}{:08d}{}", path_, kEarlierPrefix, step, kEarlierSuffix);
}

std::vector<EarlierConfig> RunDirectory::earlier_configs() const {
  std::vector<EarlierConfig> all;
  for (const std::string& name : list_directory(path_)) {
    if (const auto step = replaced_at(name))
      all.push_back({*step, read_text(path_ + "/" + name, kMaxConfigBytes)});
  }
  std::sort(all.begin(), all.end(), [](const EarlierConfig& a, const EarlierConfig& b) {
    return a.until_step < b.until_step;
  });
  return all;
}

void RunDirectory::write_figures(const std::vector<ShownFigure>& shown) const {
  replace_durably(figures(), figures_to_json(shown));
}

void RunDirectory::write_ladder(const Ladder& rungs) const {
  replace_durably(ladder(), ladder_to_json(rungs));
}

void RunDirectory::write_data_summary(const std::vector<SplitSummary>& splits) const {
  replace_durably(data_summary(), data_summary_to_json(splits));
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
  const std::string holder = fmt::format("{}, process {}", host_name(), getpid());
  // Only for the other's message: the lock holds without it.
  if (ftruncate(descriptor_, 0) == 0) {
    [[maybe_unused]] const ssize_t written = ::write(descriptor_, holder.data(), holder.size());
  }
}

bool RunLock::is_held(const RunDirectory& directory) {
  const int descriptor = ::open((directory.path() + "/lock").c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  struct flock whole = {};
  whole.l_type = F_RDLCK;  // what somebody who may only read can ask about
  whole.l_whence = SEEK_SET;
  const bool is_known = fcntl(descriptor, F_GETLK, &whole) == 0;
  ::close(descriptor);
  return is_known && whole.l_type != F_UNLCK;
}

RunLock::~RunLock() { ::close(descriptor_); }

std::string yaml_of(Config config) {
  return config_to_yaml([&](ConfigVisitor& v) { config.describe(v); });
}

Config load_arguments(std::vector<std::string> files, const std::vector<std::string>& overrides) {
  if (files.empty()) return Config::load({}, overrides);
  for (std::string& file : files) file = expand_path(file, "configuration file");
  Config base;
  const fs::path first = fs::absolute(files.front());
  const RunDirectory run(first.parent_path());
  if (first.filename() == fs::path(run.config()).filename() && path_exists(run.metrics())) {
    base = run.load_config();
    files.erase(files.begin());
  }
  return base.with(files, overrides);
}

Config load_config_on_all_ranks(comm::Communicator& communicator,
                                const std::function<Config()>& load) {
  std::string text;
  comm::agree(communicator, [&] {
    if (communicator.rank() != 0) return;
    const Config config = load();
    validate(config);
    text = yaml_of(config.resolved());
  });
  Config config;
  load_config_text(communicator.broadcast(text, 0), "configuration of rank 0",
                   [&](ConfigVisitor& v) { config.describe(v); });
  communicator.set_timeout(config.comm.timeout_s, "comm.timeout_s");
  return config;
}

}  // namespace stipple::trainer
