// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/log.h"
#include "core/text.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/launch_files.h"
#include "trainer/config/duration.h"
#include "trainer/exit_code.h"
#include "trainer/record/run_directory.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX leaves it to the program

namespace stipple::trainer {
namespace {

namespace fs = std::filesystem;

/// As one word for a shell.
std::string quoted(const std::string& text) {
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

void require_submittable(const Config& config, const SubmitOptions& options) {
  validate(config);
  STIPPLE_CHECK_AS(ConfigError, parse_duration(options.time).value_or(0) > 0, "--time: '",
                   one_line(options.time), "' is no time; use ", kDurationForms);
  const bool on_gpus = config.device == DeviceChoice::kCuda;
  STIPPLE_CHECK_AS(ConfigError, on_gpus || options.gpus_per_node == 0, "--gpus-per-node ",
                   options.gpus_per_node, " would stand idle; add device=cuda");
  STIPPLE_CHECK_AS(ConfigError, !on_gpus || options.gpus_per_node > 0,
                   "device=cuda needs --gpus-per-node");
  for (const std::string& option : options.sbatch)
    STIPPLE_CHECK_AS(ConfigError, option.starts_with("-") && !has_control(option), "--sbatch '",
                     one_line(option), "' is no option; write it whole: --sbatch=--partition=NAME");
}

/// One rank for each GPU; without GPUs one for each node, with all its cores as threads.
int64_t tasks_per_node(const SubmitOptions& options) {
  if (options.ranks_per_node > 0) return options.ranks_per_node;
  return options.gpus_per_node > 0 ? options.gpus_per_node : 1;
}

std::string run_folder(const Config& config) {
  return fs::absolute(config.run.dir).lexically_normal().string();
}

/// Of the batch script and of what it calls.
std::string job_folder(const Config& config) {
  return (fs::path(run_folder(config)) / "job").string();
}

std::string directives(const Config& config, const SubmitOptions& options) {
  const std::string folder = run_folder(config);
  const std::string name = fs::path(folder).filename().string();
  std::string lines;
  const auto add = [&](const std::string& option) { lines += "#SBATCH " + option + "\n"; };
  add("--job-name=" + quoted(name));
  add("--output=" + quoted(folder + "/slurm-%A.log"));
  add("--chdir=" + quoted(fs::current_path().string()));
  add(fmt::format("--nodes={} --ntasks-per-node={}", options.nodes, tasks_per_node(options)));
  add("--time=" + options.time);
  // Where nobody says how many, Slurm gives a rank one core.
  add(options.gpus_per_node > 0 ? fmt::format("--gpus-per-node={}", options.gpus_per_node)
                                : "--exclusive");
  if (options.chain > 1) add(fmt::format("--array=1-{}%1", options.chain));
  for (const std::string& option : options.sbatch) add(option);
  return lines;
}

/// launch/slurm.sbatch with what it is told by sbatch's command line otherwise.
std::string batch_script(const Config& config, const SubmitOptions& options,
                         const std::vector<std::string>& arguments) {
  std::string script(launch_files().front().text);
  // The last of several directives for one option counts.
  constexpr std::string_view kFirstCommand = "set -uo pipefail\n";
  const size_t at = script.find(kFirstCommand);
  STIPPLE_CHECK(at != std::string::npos, "slurm.sbatch has no line ", kFirstCommand);
  std::string mine = directives(config, options);
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) mine += "export STIPPLE=\"${STIPPLE:-" + program.string() + "}\"\n";
  mine += "run_sh=" + quoted(job_folder(config) + "/run.sh") + "\n";
  mine += "set --";
  for (const std::string& argument : arguments) mine += " " + quoted(argument);
  mine += "\n";
  return script.insert(at, mine);
}

/// Runs `sbatch script` and waits.
void run_sbatch(const std::string& script) {
  std::string program = "sbatch";
  std::string argument = script;
  char* const argv[] = {program.data(), argument.data(), nullptr};
  pid_t child = -1;
  const int code = posix_spawnp(&child, "sbatch", nullptr, nullptr, argv, environ);
  STIPPLE_CHECK_AS(ConfigError, code == 0, "cannot start sbatch: ", std::strerror(code),
                   "; submit where Slurm is: sbatch ", script);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  STIPPLE_CHECK_AS(ConfigError, WIFEXITED(status) && WEXITSTATUS(status) == 0, "sbatch refused ",
                   script);
}

}  // namespace

int submit(const std::vector<std::string>& arguments, const SubmitOptions& options) {
  const ConfigArguments split = split_config_arguments(arguments);
  const Config config = load_arguments(split.files, split.overrides);
  require_submittable(config, options);
  const std::string script = batch_script(config, options, arguments);
  if (options.is_dry) {
    fmt::print("{}", script);
    return kDone;
  }
  const std::string folder = job_folder(config);
  create_directories(folder);
  for (const LaunchFile& file : launch_files()) {
    const std::string path = folder + "/" + std::string(file.name);
    replace_durably(path, &file == launch_files().data() ? script : file.text);
    fs::permissions(path, fs::perms::owner_exec | fs::perms::group_exec, fs::perm_options::add);
  }
  const std::string path = folder + "/" + std::string(launch_files().front().name);
  run_sbatch(path);
  log::info(fmt::format("follow it with: stipple status {}", config.run.dir));
  return kDone;
}

}  // namespace stipple::trainer
