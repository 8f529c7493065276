# Finds the CUDA backend's tool chain as STIPPLE_CUDA asks:
#   AUTO      use it when a working toolkit with cuBLASLt, cuSPARSE and NCCL is found
#   ON        it must be found
#   OFF       never look
#   EMULATED  compile the kernels as C++ against tests/support/cuda_on_cpu: for tests, on machines without a GPU
# Sets STIPPLE_HAS_CUDA, and the interface library stipple_cuda that files below */cuda/ and comm/nccl/ link.
set(STIPPLE_HAS_CUDA OFF)
add_library(stipple_cuda INTERFACE)

if(STIPPLE_CUDA STREQUAL "EMULATED")
  set(STIPPLE_HAS_CUDA ON)
elseif(NOT STIPPLE_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE _nvcc)
    string(REGEX MATCH "release ([0-9.]+)" _nvcc "${_nvcc}")
    set(_nvcc_version ${CMAKE_MATCH_1})
  endif()
  if(CMAKE_CUDA_COMPILER AND _nvcc_version VERSION_LESS 12.4)
    message(STATUS "CUDA backend: nvcc ${_nvcc_version} is too old, 12.4 is needed")
  elseif(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)  # must be known before the language is enabled
      if(_nvcc_version VERSION_LESS 12.8)
        set(_architectures "80-real;90-real;90-virtual")
      else()
        set(_architectures "80-real;90-real;100-real;100-virtual")
      endif()
      set(CMAKE_CUDA_ARCHITECTURES "${_architectures}" CACHE STRING "GPU architectures")
    endif()
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26 does not know nvcc's C++20
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    find_package(CUDAToolkit 12.4)
    find_package(NCCL)
    set(STIPPLE_HAS_CUDA ON)
    foreach(target CUDA::cudart CUDA::cublasLt CUDA::cusparse CUDA::nvtx3 NCCL::NCCL)
      if(NOT TARGET ${target})
        message(STATUS "CUDA backend: ${target} is missing")
        set(STIPPLE_HAS_CUDA OFF)
      endif()
    endforeach()
  endif()
  if(STIPPLE_CUDA STREQUAL "ON" AND NOT STIPPLE_HAS_CUDA)
    message(FATAL_ERROR "STIPPLE_CUDA=ON, but the CUDA tool chain is not complete (nvcc 12.4 or later, cuBLASLt, cuSPARSE, NCCL)")
  endif()
  if(STIPPLE_HAS_CUDA)
    # Never libcuda itself: the program must start on machines without a driver.
    target_link_libraries(stipple_cuda INTERFACE CUDA::cudart CUDA::cublasLt CUDA::cusparse CUDA::nvtx3 NCCL::NCCL)
  endif()
endif()
message(STATUS "CUDA backend: ${STIPPLE_HAS_CUDA} (STIPPLE_CUDA=${STIPPLE_CUDA})")

# stipple_cuda_sources(target a.cu b.cu ...): kernels, compiled by nvcc or, emulated, as C++.
function(stipple_cuda_sources target)
  if(NOT STIPPLE_HAS_CUDA)
    return()
  endif()
  target_sources(${target} PRIVATE ${ARGN})
  target_link_libraries(${target} PRIVATE stipple_cuda)
  if(STIPPLE_CUDA STREQUAL "EMULATED")
    set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS
      "-x;c++;-Wno-unknown-pragmas;-Wno-sign-conversion;-Wno-conversion")
    if(NOT STIPPLE_EMULATE_ALL)
      # Device and shared memory end at pages that nobody may touch; bounds of fixed arrays are the undefined-behaviour sanitizer's.
      list(FILTER ARGN INCLUDE REGEX "\\.cu$")
      set_property(SOURCE ${ARGN} APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=address -DSTIPPLE_FEW_HEAD_SIZES=1)
    endif()
  endif()
endfunction()
