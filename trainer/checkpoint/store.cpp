// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/store.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "trainer/checkpoint/collectively.h"
#include "trainer/checkpoint/load.h"
#include "trainer/checkpoint/shard.h"
#include "trainer/checkpoint/step_directory.h"

namespace stipple::trainer {
namespace {

constexpr std::string_view kTemporaryPrefix = ".tmp-";
constexpr std::string_view kTrashPrefix = ".trash-";

}  // namespace

CheckpointStore::CheckpointStore(std::string directory, comm::Communicator& comm, int64_t keep)
    : directory_(std::move(directory)), comm_(comm), keep_(keep) {
  STIPPLE_CHECK_AS(ConfigError, keep_ >= 2,
                   "checkpoint.keep must be at least 2: with one, a crash during a save or a "
                   "damaged file could cost the whole run");
  collectively(comm_, [&] {
    if (comm_.rank() == 0) sweep();
  });
}

void CheckpointStore::sweep() {
  create_directories(directory_);
  const auto parent = std::filesystem::absolute(directory_).lexically_normal().parent_path();
  sync_directory(parent.string());
  for (const std::string& name : list_directory(directory_)) {
    if (!name.starts_with(kTemporaryPrefix) && !name.starts_with(kTrashPrefix)) continue;
    log::info(fmt::format("removing {}/{}, left by an interrupted save", directory_, name));
    remove_tree(directory_ + "/" + name);
  }
}

void CheckpointStore::save(Snapshot snapshot) {
  PendingSave pending = begin(std::move(snapshot));
  pending.write();
  commit(pending);
}

PendingSave CheckpointStore::begin(Snapshot snapshot) {
  PendingSave pending;
  const int64_t step = snapshot.meta.step;
  pending.snapshot_ = std::move(snapshot);
  pending.rank_ = comm_.rank();
  pending.world_size_ = comm_.size();
  // Named by rank 0, because process ids differ and a directory listing may be stale on another
  // machine.
  pending.temporary_ =
      directory_ + "/" +
      comm_.broadcast(fmt::format("{}{}.{}", kTemporaryPrefix, step_name(step), getpid()), 0);
  pending.fault_ = fault_;
  discarding_on_error(pending.temporary_, [&] {
    pending.pieces_ = deal_pieces(pending.snapshot_.tensors, comm_);
    if (comm_.rank() != 0) return;
    require_free_space(directory_, bytes_needed(pending.snapshot_, comm_.size()), comm_.size() + 3,
                       fault_);
    // Left by an earlier attempt at this step whose removal failed too.
    remove_tree(pending.temporary_, fault_);
    create_directory(pending.temporary_, fault_);
  });
  return pending;
}

void CheckpointStore::commit(PendingSave& pending) {
  discarding_on_error(pending.temporary_, [&] {
    if (pending.error_) std::rethrow_exception(pending.error_);
    STIPPLE_CHECK(pending.is_written_, "a save is committed before it is written");
  });
  const auto reports = comm_.all_gather(to_text(pending.report_));
  discarding_on_error(pending.temporary_, [&] {
    if (comm_.rank() == 0)
      publish(make_manifest(pending.snapshot_, pending.pieces_, reports), pending.temporary_);
  });
  if (comm_.rank() == 0) retain(pending.snapshot_.meta.step);
}

/// Runs a part of a save on every rank; when it fails on one, what was written so far goes.
void CheckpointStore::discarding_on_error(const std::string& temporary, FunctionRef<void()> body) {
  try {
    collectively(comm_, body);
  } catch (const CommError&) {
    throw;
  } catch (const Error&) {
    if (comm_.rank() == 0) discard(temporary);
    throw;
  }
}

void CheckpointStore::publish(const Manifest& manifest, const std::string& temporary) {
  const std::string target = directory_ + "/" + step_name(manifest.meta.step);
  const std::string json = manifest_to_json(manifest);
  write_durably(temporary + "/" + kManifestName, json, fault_);
  write_durably(temporary + "/" + kManifestHashName, manifest_hash_line(json), fault_);
  sync_directory(temporary, fault_);
  known_good_.erase(manifest.meta.step);
  const bool replaced = rename_or_exchange(temporary, target, fault_);
  sync_directory(directory_, fault_);
  known_good_.insert(manifest.meta.step);
  if (replaced) discard(temporary);
}

void CheckpointStore::discard(const std::string& directory) noexcept {
  try {
    remove_tree(directory);
  } catch (const std::exception& e) {
    log::warn(e.what());
  }
}

bool CheckpointStore::is_good(int64_t step) {
  if (known_good_.contains(step)) return true;
  const std::string reason = reason_against(directory_ + "/" + step_name(step));
  if (!reason.empty()) {
    log::warn(fmt::format("checkpoint {} does not count as kept: {}", step_name(step), reason));
    return false;
  }
  known_good_.insert(step);
  return true;
}

void CheckpointStore::retain(int64_t saved) {
  try {
    int64_t kept = 1;
    for (int64_t step : steps_in(directory_)) {
      if (step == saved) continue;
      if (kept < keep_) {
        kept += is_good(step) ? 1 : 0;
        continue;
      }
      if (step == protected_) continue;
      // Out of sight first: a crash in the middle of a removal must not leave half a checkpoint
      // under a good name.
      const std::string name = step_name(step);
      const std::string trash = fmt::format("{}/{}{}.{}", directory_, kTrashPrefix, name, getpid());
      rename_or_exchange(directory_ + "/" + name, trash, fault_);
      known_good_.erase(step);
      remove_tree(trash, fault_);
    }
  } catch (const std::exception& e) {
    log::warn(fmt::format("old checkpoints in {} stay for now: {}", directory_, e.what()));
  }
}

std::optional<CheckpointMeta> CheckpointStore::load_newest(std::span<const TensorRef> into,
                                                           std::string_view config_yaml) {
  auto meta = load_checkpoint(directory_, comm_, into, config_yaml);
  if (meta) known_good_.insert(meta->step);
  return meta;
}

}  // namespace stipple::trainer
