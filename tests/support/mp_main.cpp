// SPDX-License-Identifier: Apache-2.0
// main of tests that run under mpirun: only rank 0 prints passes, every rank's failure fails the run.
#include <gtest/gtest.h>
#include <mpi.h>

#include "tests/support/choose_source.h"

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  ::testing::InitGoogleTest(&argc, argv);
  int failed = stipple::test::choose_source(argc, argv) ? RUN_ALL_TESTS() : 2;
  MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return failed;
}
