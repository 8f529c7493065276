# How targets are made here: one helper per kind, so that flags live in one place.

add_library(stipple_warnings INTERFACE)
target_compile_options(stipple_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wconversion;-Wsign-conversion;-Wmissing-field-initializers;-Wno-restrict>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${STIPPLE_WERROR}>>:-Werror>
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--diag-suppress=554;-lineinfo;-Xcompiler=-Wall;-Xptxas=-v>
  $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${STIPPLE_WERROR}>>:-Werror=all-warnings>)

if(STIPPLE_SANITIZE STREQUAL "address")
  # g++ 12 warns of its own headers (<regex>) when it instruments them.
  target_compile_options(stipple_warnings INTERFACE -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined
    -Wno-maybe-uninitialized)
  target_link_options(stipple_warnings INTERFACE -fsanitize=address,undefined)
elseif(STIPPLE_SANITIZE STREQUAL "thread")
  target_compile_options(stipple_warnings INTERFACE -fsanitize=thread)
  target_link_options(stipple_warnings INTERFACE -fsanitize=thread)
endif()

# What the quick sanitized build (cuda-emulated) does for its own speed; cpu-asan and cuda-emulated-all do not. Linked after stipple_warnings.
# stipple_quick_host: layers that compute little are compiled without optimisation, in half the time.
# stipple_pointers_unchecked: layers that own no raw memory do not ask before every use of a pointer whether it is null, aligned and of
# its type; that is left to the address sanitizer.
add_library(stipple_quick_host INTERFACE)
add_library(stipple_pointers_unchecked INTERFACE)
if(STIPPLE_SANITIZE STREQUAL "address" AND STIPPLE_CUDA STREQUAL "EMULATED" AND NOT STIPPLE_EMULATE_ALL)
  target_compile_options(stipple_quick_host INTERFACE -O0)
  target_compile_options(stipple_pointers_unchecked INTERFACE -fno-sanitize=null,alignment,object-size,vptr)
endif()

# stipple_library(core SOURCES a.cpp ... DEPS other ... PRIVATE_LIBS third::party ...)
# The libraries a layer may use are exactly its DEPS: what is not listed does not link.
function(stipple_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_LIBS" ${ARGN})
  list(TRANSFORM ARG_DEPS PREPEND stipple_)
  add_library(stipple_${name} STATIC ${ARG_SOURCES})
  target_include_directories(stipple_${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(stipple_${name} PUBLIC ${ARG_DEPS} PRIVATE stipple_warnings ${ARG_PRIVATE_LIBS})
endfunction()

# Environment of every test: MPI that runs as root, oversubscribed and unbound; sanitizers that know MPI's own leaks.
set(STIPPLE_TEST_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
  OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_rmaps_base_oversubscribe=1
  OMPI_MCA_odls_base_sigkill_timeout=0 OMP_NUM_THREADS=1
  LSAN_OPTIONS=suppressions='${PROJECT_SOURCE_DIR}/tests/support/lsan.supp':print_suppressions=0
  UBSAN_OPTIONS=print_stacktrace=1
  TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66)
# MPI's own leaks are known by their callers, which only the slow unwinding finds: several times the time of a test that allocates much.
set(STIPPLE_MPI_TEST_ENVIRONMENT ${STIPPLE_TEST_ENVIRONMENT} ASAN_OPTIONS=fast_unwind_on_malloc=0)

# Tests are compiled more often than they run, and under sanitizers their many small statements take most of the build: the code of the
# tests themselves is optimised little, and undefined behaviour is looked for in what they test. To be linked after stipple_warnings.
# (g++ 12 warns of overruns in std::string that are none.)
add_library(stipple_test_options INTERFACE)
if(STIPPLE_SANITIZE STREQUAL "address")
  target_compile_options(stipple_test_options INTERFACE -Og -fno-sanitize=undefined)
elseif(NOT STIPPLE_SANITIZE)
  target_compile_options(stipple_test_options INTERFACE $<$<CONFIG:Release>:-O1;-Wno-array-bounds;-Wno-stringop-overflow>)
endif()

# stipple_test_program(core_tests DEPS core ... [MPI]): the tests of a folder in one program; the calls of stipple_test after it add to it.
# With MPI its ranks are started by mpirun (stipple_mp_test). Each of the tests is labelled with the layer it is about, the folder's name
# if LAYER does not say another; kernels_test_programs and so on build those of a layer.
function(stipple_test_program name)
  cmake_parse_arguments(ARG "MPI" "FOLDER;LAYER" "DEPS;LIBS" ${ARGN})
  if(NOT ARG_LAYER)
    get_filename_component(ARG_LAYER ${CMAKE_CURRENT_SOURCE_DIR} NAME)
  endif()
  list(TRANSFORM ARG_DEPS PREPEND stipple_)
  add_executable(${name})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} ${ARG_LIBS} stipple_test_support stipple_warnings stipple_test_options)
  target_precompile_headers(${name} REUSE_FROM stipple_test_support)
  if(ARG_MPI)
    target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/support/mp_main.cpp)
    target_link_libraries(${name} PRIVATE stipple_mpi)
  endif()
  if(NOT TARGET ${ARG_LAYER}_test_programs)
    add_custom_target(${ARG_LAYER}_test_programs)
  endif()
  add_dependencies(${ARG_LAYER}_test_programs ${name})
  set(STIPPLE_TEST_PROGRAM ${name} PARENT_SCOPE)
  set(STIPPLE_TEST_LAYER ${ARG_LAYER} PARENT_SCOPE)
  set(STIPPLE_TEST_FOLDER ${CMAKE_CURRENT_SOURCE_DIR}/${ARG_FOLDER} PARENT_SCOPE)
endfunction()

# stipple_test(rng_test [LABELS slow] [TIMEOUT 60]): adds rng_test.cpp to the folder's program and gives ctest a test of that name.
# Tests that may take longest start first. Those labelled `statistics` take too many samples for sanitizers, and are not built there
# unless they are also labelled `emulated`.
function(stipple_test stem)
  cmake_parse_arguments(ARG "" "TIMEOUT" "LABELS" ${ARGN})
  if(STIPPLE_SANITIZE AND "statistics" IN_LIST ARG_LABELS AND NOT "emulated" IN_LIST ARG_LABELS)
    return()
  endif()
  target_sources(${STIPPLE_TEST_PROGRAM} PRIVATE ${STIPPLE_TEST_FOLDER}/${stem}.cpp)
  if("statistics" IN_LIST ARG_LABELS)
    set_source_files_properties(${STIPPLE_TEST_FOLDER}/${stem}.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  endif()
  add_test(NAME ${stem} COMMAND ${STIPPLE_TEST_PROGRAM} --source=${stem} --gtest_brief=1)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if("mp" IN_LIST ARG_LABELS)
    set(environment "${STIPPLE_MPI_TEST_ENVIRONMENT}")
  else()
    set(environment "${STIPPLE_TEST_ENVIRONMENT}")
  endif()
  set_tests_properties(${stem} PROPERTIES ENVIRONMENT "${environment}" TIMEOUT ${ARG_TIMEOUT} COST ${ARG_TIMEOUT} LABELS "${ARG_LABELS};${STIPPLE_TEST_LAYER}")
endfunction()

# stipple_test_again(attend_tiles_test one_multiprocessor STIPPLE_MULTIPROCESSORS=1): the same test once more, with that in its environment.
function(stipple_test_again stem name setting)
  add_test(NAME ${stem}.${name} COMMAND ${STIPPLE_TEST_PROGRAM} --source=${stem} --gtest_brief=1)
  foreach(property ENVIRONMENT TIMEOUT COST LABELS)
    get_test_property(${stem} ${property} ${property})
  endforeach()
  list(APPEND ENVIRONMENT "${setting}")
  set_tests_properties(${stem}.${name} PROPERTIES ENVIRONMENT "${ENVIRONMENT}" TIMEOUT ${TIMEOUT} COST ${COST} LABELS "${LABELS}")
endfunction()

# stipple_mp_test(communicator_mp_test RANKS 1 2 4): the same under mpirun, one test for each number of ranks.
function(stipple_mp_test stem)
  cmake_parse_arguments(ARG "" "TIMEOUT" "RANKS;LABELS" ${ARGN})
  target_sources(${STIPPLE_TEST_PROGRAM} PRIVATE ${STIPPLE_TEST_FOLDER}/${stem}.cpp)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS mp)
  endif()
  foreach(ranks ${ARG_RANKS})
    add_test(NAME ${stem}.np${ranks}
      COMMAND ${MPIEXEC_EXECUTABLE} --timeout ${ARG_TIMEOUT} -np ${ranks} $<TARGET_FILE:${STIPPLE_TEST_PROGRAM}> --source=${stem} --gtest_brief=1)
    set_tests_properties(${stem}.np${ranks} PROPERTIES ENVIRONMENT "${STIPPLE_MPI_TEST_ENVIRONMENT}" TIMEOUT ${ARG_TIMEOUT} COST ${ARG_TIMEOUT}
      PROCESSORS ${ranks} LABELS "${ARG_LABELS};${STIPPLE_TEST_LAYER}")
  endforeach()
endfunction()

# stipple_bench(bench_attention DEPS kernels): a google-benchmark program in build/bin.
function(stipple_bench stem)
  cmake_parse_arguments(ARG "" "" "DEPS;LIBS" ${ARGN})
  list(TRANSFORM ARG_DEPS PREPEND stipple_)
  add_executable(${stem} ${stem}.cpp)
  set_target_properties(${stem} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  target_link_libraries(${stem} PRIVATE ${ARG_DEPS} ${ARG_LIBS} stipple_warnings benchmark::benchmark)
endfunction()
