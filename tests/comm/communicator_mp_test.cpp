// SPDX-License-Identifier: Apache-2.0
#include <mpi.h>
#include <sys/prctl.h>

#include <csignal>

#include "comm/communicator.h"
#include "communicator_checks.h"

namespace stipple::comm {
namespace {

class MpiRanks : public ::testing::TestWithParam<test::Check> {};
TEST_P(MpiRanks, Do) { GetParam().body(*make_mpi_communicator(), nullptr); }
INSTANTIATE_TEST_SUITE_P(Communicator, MpiRanks, ::testing::ValuesIn(test::kChecks),
                         test::claim_of);

TEST(MpiCommunicator, HasTheWorldsRanks) {
  int rank = -1;
  int size = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const auto communicator = make_mpi_communicator();
  EXPECT_EQ(communicator->rank(), rank);
  EXPECT_EQ(communicator->size(), size);
  EXPECT_EQ(communicator->local_size(), size) << "all ranks of this test are on one machine";
  EXPECT_EQ(communicator->local_rank(), rank);
}

TEST(MpiCommunicator, DoesNotFinaliseWhatItDidNotStart) {
  make_mpi_communicator();
  int finalized = 1;
  MPI_Finalized(&finalized);
  EXPECT_EQ(finalized, 0);
}

TEST(MpiCommunicator, MessagesOfTwoCommunicatorsDoNotMix) {
  const auto first = make_mpi_communicator();
  const auto second = make_mpi_communicator();
  test::UnevenExchange a(*first, 1);
  test::UnevenExchange b(*second, 3);
  const Pending from_first = first->exchange(a.send, a.recv);
  const Pending from_second = second->exchange(b.send, b.recv);
  second->wait(from_second);
  first->wait(from_first);
  a.expect_arrived();
  b.expect_arrived();
}

TEST(MpiCommunicator, AnErrorNamesRankOperationAndSequenceNumber) {
  const auto communicator = make_mpi_communicator();
  communicator->barrier();
  std::vector<std::byte> bytes(10);
  try {
    communicator->broadcast(std::span(bytes), communicator->size());
    ADD_FAILURE() << "nothing thrown";
  } catch (const CommError& error) {
    const std::string text = error.what();
    const std::string prefix = "rank " + std::to_string(communicator->rank()) + "/" +
                               std::to_string(communicator->size()) + ": broadcast #2: ";
    EXPECT_EQ(text.substr(0, prefix.size()), prefix);
    EXPECT_NE(text.find("root", prefix.size()), std::string::npos) << text;
  }
}

TEST(MpiCommunicator, AMessageThatIsTooLongIsAnErrorOfTheReceiver) {
  const auto communicator = make_mpi_communicator();
  const auto ranks = static_cast<size_t>(communicator->size());
  if (ranks == 1) GTEST_SKIP() << "a rank does not send messages to itself";
  std::vector<float> out(20), in(10);
  std::vector<std::span<const float>> send(ranks);
  std::vector<std::span<float>> recv(ranks);
  if (communicator->rank() == 0) recv[1] = in;
  if (communicator->rank() == 1) send[0] = out;
  const Pending exchange = communicator->exchange(send, recv);
  if (communicator->rank() == 0) {
    EXPECT_THROW(communicator->wait(exchange), CommError);
  } else {
    EXPECT_NO_THROW(communicator->wait(exchange));
  }
}

TEST(MpiCommunicator, WaitingTwiceIsAnError) {
  const auto communicator = make_mpi_communicator();
  std::vector<float> values(10);
  const Pending first = communicator->all_reduce_sum(values);
  communicator->wait(first);
  const Pending second = communicator->all_reduce_sum(values);
  EXPECT_THROW(communicator->wait(first), CommError);
  communicator->wait(second);
  EXPECT_THROW(communicator->wait(Pending{}), CommError);
}

TEST(MpiCommunicator, RanksDieWithTheirLauncher) {
  make_mpi_communicator();
  int signal = 0;
  prctl(PR_GET_PDEATHSIG, &signal);
  EXPECT_EQ(signal, SIGKILL);
}

}  // namespace
}  // namespace stipple::comm
