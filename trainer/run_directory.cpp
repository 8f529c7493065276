// SPDX-License-Identifier: Apache-2.0
#include "trainer/run_directory.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/log.h"
#include "trainer/config_text.h"

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

bool RunDirectory::has_run() const { return fs::exists(config()) || fs::exists(checkpoints()); }

void RunDirectory::open(Config& config) const {
  const bool existing = has_run();
  STIPPLE_CHECK_AS(ConfigError, !(existing && config.run.resume == Resume::kNever), path_,
                   " holds a run already and run.resume is 'never'; choose another run.dir");
  STIPPLE_CHECK_AS(ConfigError, existing || config.run.resume != Resume::kMust, path_,
                   " holds no run and run.resume is 'must'; check run.dir");
  std::error_code error;
  fs::create_directories(path_, error);
  STIPPLE_CHECK_AS(ConfigError, !error, "cannot make the run directory ", path_, ": ",
                   error.message());
  log::set_file(path_ + "/log.txt");
  const std::string yaml = yaml_of(config);
  if (fs::exists(this->config())) {
    for (const std::string& line : differing_keys(read_file(this->config()), yaml)) log::warn(line);
  }
  const std::string temporary = this->config() + ".new";
  std::ofstream out(temporary, std::ios::trunc);
  out << yaml;
  out.close();
  STIPPLE_CHECK(out.good(), "cannot write ", temporary, ": ", std::strerror(errno));
  fs::rename(temporary, this->config());
}

void RunDirectory::write_ladder(const std::vector<data::Task::Rung>& rungs) const {
  nlohmann::json list = nlohmann::json::array();
  for (const data::Task::Rung& rung : rungs)
    list.push_back({{"name", rung.name}, {"accuracy", rung.accuracy}});
  std::ofstream(ladder(), std::ios::trunc) << list.dump(2) << '\n';
}

std::vector<data::Task::Rung> RunDirectory::read_ladder() const {
  std::vector<data::Task::Rung> rungs;
  std::ifstream in(ladder());
  const nlohmann::json list = nlohmann::json::parse(in, nullptr, false);
  if (!list.is_array()) return rungs;
  for (const auto& rung : list)
    rungs.push_back({rung.value("name", ""), rung.value("accuracy", 0.0)});
  return rungs;
}

Config load_config_on_all_ranks(comm::Communicator& communicator,
                                const std::vector<std::string>& files,
                                const std::vector<std::string>& overrides) {
  std::string text;
  std::string mistake;
  if (communicator.rank() == 0) {
    try {
      Config config = Config::load(files, overrides);
      validate(config);
      text = yaml_of(config);
    } catch (const ConfigError& e) {
      mistake = e.what();
    }
  }
  mistake = communicator.broadcast(mistake, 0);
  if (!mistake.empty()) throw ConfigError(mistake);
  Config config;
  load_config_text(communicator.broadcast(text, 0), "configuration of rank 0",
                   [&](ConfigVisitor& v) { config.describe(v); });
  return config;
}

void open_on_rank_zero(comm::Communicator& communicator, const RunDirectory& directory,
                       Config& config) {
  std::string mistake;
  if (communicator.rank() == 0) {
    try {
      directory.open(config);
    } catch (const Error& e) {
      mistake = e.what();
    }
  }
  mistake = communicator.broadcast(mistake, 0);
  if (!mistake.empty()) throw ConfigError(mistake);
}

}  // namespace stipple::trainer
