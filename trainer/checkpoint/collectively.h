// SPDX-License-Identifier: Apache-2.0
// comm::agree for checkpoints: what fails on some rank fails on all, as CheckpointError where it
// is not of a kind that says more.
#pragma once

#include "comm/communicator.h"
#include "core/error.h"

namespace stipple::trainer {

template <class Body>
void collectively(comm::Communicator& communicator, Body body) {
  try {
    comm::agree(communicator, body);
  } catch (const CommError&) {
    throw;
  } catch (const ConfigError&) {
    throw;
  } catch (const DataError&) {
    throw;
  } catch (const Error& e) {
    CheckpointError error(e.what());
    error.set_collective();
    throw error;
  }
}

}  // namespace stipple::trainer
