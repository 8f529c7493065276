# SPDX-License-Identifier: Apache-2.0
# Sourced by the other scripts: Open MPI settings that work on a workstation, in a container and as root.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_hwloc_base_binding_policy=none   # a rank may use all the cores it has threads for
export OMPI_MCA_rmaps_base_oversubscribe=1       # more ranks than cores is allowed
export OMPI_MCA_mpi_yield_when_idle=1            # and does not spin the others away
export OMP_NUM_THREADS=1                         # Stipple brings its own threads
